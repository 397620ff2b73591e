"""FlowBind (arXiv 2512.15420): modalities tied to one shared latent, each by an invertible flow."""

from flowbind.methods.flowbind.method import FlowBind

__all__ = ["FlowBind"]
