"""Evaluation: what `flowbind test` measures, and its report."""
