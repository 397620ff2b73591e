"""Networks split over devices by Lightning's ModelParallelStrategy (FSDP2), and whole again."""

from collections.abc import Mapping
from typing import TypeVar

from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor

from flowbind.method import Networks, callable_networks

Part = TypeVar("Part", bound=nn.Module)
Value = TypeVar("Value")


def shard(networks: Networks, mesh: DeviceMesh) -> None:
    """Splits every block, and what is left of every net, over the devices of a mesh.

    A net is split again as soon as it has been used, also in a validation, which computes no
    gradients: the average of the weights needs its parts as they lie on each device.
    """
    for net in callable_networks(networks.nets):
        for blocks in net.children():
            if not isinstance(blocks, nn.ModuleList | nn.Sequential):
                continue
            for block in blocks:
                if list(block.children()):
                    fully_shard(block, mesh=mesh)
        fully_shard(net, mesh=mesh, reshard_after_forward=True)


def is_sharded(module: nn.Module, wrapped: nn.Module | None) -> bool:
    """Whether a module's weights are spread over devices.

    `wrapped` is what the strategy made of it.
    """
    if isinstance(wrapped, FullyShardedDataParallel):
        return True
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def with_prefix(state: Mapping[str, Value], prefix: str) -> dict[str, Value]:
    """Those values of a state whose names have a prefix, without it."""
    part = {}
    for name, value in state.items():
        if name.startswith(prefix):
            part[name.removeprefix(prefix)] = value
    return part


def gather(
    module: Part,
    wrapped: nn.Module | None,
    prefix: str,
    whole: Part,
) -> Part:
    """A whole copy of a module that is spread over devices; every device takes part and gets one.

    Args:
        module: Module with spread weights.
        wrapped: Module that FSDP made of what it is part of; its names begin with `prefix` there.
        prefix: Prefix of the module's names in what is wrapped.
        whole: Module of the same kind on the meta device, which is filled and returned.
    """
    options = StateDictOptions(full_state_dict=True)
    if isinstance(wrapped, FullyShardedDataParallel):
        state = with_prefix(get_model_state_dict(wrapped, options=options), prefix)
    else:
        state = get_model_state_dict(module, options=options)

    whole.load_state_dict(state, assign=True)
    return whole.requires_grad_(False).eval()
