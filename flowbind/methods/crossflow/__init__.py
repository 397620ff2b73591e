"""CrossFlow (arXiv 2412.15213): a flow straight from one modality's latent to another's."""

from flowbind.methods.crossflow.method import CrossFlow

__all__ = ["CrossFlow"]
