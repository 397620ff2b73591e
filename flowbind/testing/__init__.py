"""Laws of plugins, for their authors: what flowbind takes for granted of every modality and method."""

from flowbind.testing.method import check_method
from flowbind.testing.modality import LAWS, Subject, check_modality

__all__ = ["LAWS", "Subject", "check_method", "check_modality"]
