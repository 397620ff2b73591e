"""Architectures, on torch alone."""
