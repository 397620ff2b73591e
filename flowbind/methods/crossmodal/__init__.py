"""Cross-modal flows: a latent and a sequence of ids evolve together, each seeing the other."""

from flowbind.methods.crossmodal.method import CrossModal

__all__ = ["CrossModal"]
