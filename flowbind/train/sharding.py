"""Networks split over devices by Lightning's ModelParallelStrategy (FSDP2), and whole again."""

from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor

from flowbind.method import Networks, callable_networks


def shard(networks: Networks, mesh: DeviceMesh) -> None:
    """Splits every block, and what is left of every net, over the devices of a mesh."""
    for net in callable_networks(networks.nets):
        for blocks in (
            part for part in net.children() if isinstance(part, nn.ModuleList | nn.Sequential)
        ):
            for block in blocks:
                if any(True for _ in block.children()):
                    fully_shard(block, mesh=mesh)
        fully_shard(net, mesh=mesh)


def is_sharded(module: nn.Module, wrapped: nn.Module | None) -> bool:
    """Whether a module's weights are spread over devices; `wrapped` is what the strategy made of it."""
    return isinstance(wrapped, FullyShardedDataParallel) or any(
        isinstance(p, DTensor) for p in module.parameters()
    )


def gather(
    module: nn.Module, wrapped: nn.Module | None, prefix: str, whole: nn.Module
) -> nn.Module:
    """A whole copy of a module that is spread over devices; every device takes part and gets one.

    Args:
        module: with spread weights.
        wrapped: what FSDP made of the module that it is part of, with names that begin with `prefix`.
        prefix: of the module in what is wrapped.
        whole: a module of the same kind on the meta device, which is filled and returned.
    """
    options = StateDictOptions(full_state_dict=True)
    if isinstance(wrapped, FullyShardedDataParallel):
        state = get_model_state_dict(wrapped, options=options)
        state = {
            key.removeprefix(prefix): value
            for key, value in state.items()
            if key.startswith(prefix)
        }
    else:
        state = get_model_state_dict(module, options=options)
    whole.load_state_dict(state, assign=True)
    return whole.requires_grad_(False).eval()
