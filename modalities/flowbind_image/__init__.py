"""Images: RGB pictures, in every format that Pillow reads by itself."""

from flowbind_image.modality import Image

__all__ = ["Image"]
