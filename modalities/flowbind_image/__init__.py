"""Images: RGB pictures in PNG, JPEG, WebP and BMP files."""

from flowbind_image.modality import Image

__all__ = ["Image"]
