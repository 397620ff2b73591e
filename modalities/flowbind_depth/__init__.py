"""Depth maps: how far away is what each pixel of a picture shows."""

from flowbind_depth.modality import Depth

__all__ = ["Depth"]
