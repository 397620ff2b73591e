"""Texts: captions of a line, in a manifest or in files; a small codec that needs no download."""

from flowbind_text.modality import Text

__all__ = ["Text"]
