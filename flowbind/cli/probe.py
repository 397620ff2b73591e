"""What `flowbind doctor` tries in a process of its own, for what is broken may end or stop it.

Each thing that was tried is a line of JSON on standard output. torch is imported where it is tried.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

SIDE = 1024  # of the matrices that are multiplied
TIMES = 5


def main(arguments: Sequence[str]) -> None:
    """Imports modules in their order, or tries devices.

    Args:
        arguments: `imports` and the names of modules; or `devices`.
    """
    what, *names = arguments
    if what == "devices":
        _try_devices()
        return
    for name in names:
        _tell(module=name, error=_error_of(partial(import_module, name)))


def _tell(**facts: Any) -> None:
    print(json.dumps(facts), file=sys.__stdout__, flush=True)


def _error_of(action: Callable[[], Any]) -> str:
    """What an action raises, in a line; empty where it succeeds."""
    try:
        action()
    except BaseException as error:
        return " ".join(f"{type(error).__name__}: {error}".split())
    return ""


def _try_devices() -> None:
    """Tells of every device that torch has: what it is, its bfloat16, and whether it compiles."""
    import torch

    devices = ["cpu"]
    devices += [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    _tell(
        torch=torch.__version__,
        cuda=torch.version.cuda or torch.version.hip or "",
        threads=torch.get_num_threads(),
    )

    for device in devices:
        facts = {"device": device, "name": "", "memory": 0, "free": 0}
        if device.startswith("cuda"):
            properties = torch.cuda.get_device_properties(device)
            free, _ = torch.cuda.mem_get_info(device)
            facts |= {
                "name": properties.name,
                "memory": properties.total_memory,
                "free": free,
            }
        facts["gain"], facts["error"] = _gain_of_bfloat16(device)
        _tell(**facts)

    # One of each kind: compiling takes seconds.
    kinds = {device.partition(":")[0]: device for device in reversed(devices)}
    for kind, device in kinds.items():
        start = time.perf_counter()
        error = _error_of(partial(_compile, device))
        _tell(compiles=kind, error=error, seconds=time.perf_counter() - start)


def _gain_of_bfloat16(device: str) -> tuple[float, str]:
    """How many times as fast matrices are multiplied in bfloat16; and why they are not."""
    import torch

    def seconds(dtype: torch.dtype) -> float:
        matrix = torch.ones(SIDE, SIDE, dtype=dtype, device=device)
        best = float("inf")
        for _ in range(TIMES):
            start = time.perf_counter()
            (matrix @ matrix)[0, 0].item()  # which waits for the device
            best = min(best, time.perf_counter() - start)
        return best

    try:
        return seconds(torch.float32) / seconds(torch.bfloat16), ""
    except Exception as error:
        return 0.0, " ".join(str(error).split())


def _compile(device: str) -> None:
    """Compiles a small function and compares it with what it was made of.

    Raises:
        Exception: whatever the compiler does; ArithmeticError where results differ.
    """
    import torch

    def function(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.gelu(x @ x).sum(1)

    x = torch.linspace(-1, 1, 64, device=device).reshape(8, 8)
    if not torch.allclose(torch.compile(function)(x), function(x), atol=1e-3):
        raise ArithmeticError("the compiled function gives another result")


if __name__ == "__main__":
    main(sys.argv[1:])
