"""Slow, obvious re-derivations, from the equations alone: nothing here imports flowbind."""
