"""Ordinary flow matching: from noise to one modality, told another by cross-attention."""

from flowbind.methods.flow_matching.method import FlowMatching

__all__ = ["FlowMatching"]
