"""Sounds: one second, mono, 16 kHz."""

from flowbind_audio.modality import Audio

__all__ = ["Audio"]
