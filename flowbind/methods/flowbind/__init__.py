"""FlowBind (arXiv 2512.15420): every modality tied to one shared latent by its own invertible flow."""

from flowbind.methods.flowbind.method import FlowBind

__all__ = ["FlowBind"]
