"""Evaluation: what `flowbind test` measures, and how it is told."""
