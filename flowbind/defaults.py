"""torch's defaults, for as long as flowbind and its plugins work: a notebook may have set others.

Codecs make tensors without saying of which dtype and where, as everybody does. Under another
default they would break, or encode otherwise than in training.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

_LOCK = threading.Lock()
_INSIDE = 0  # blocks that are open, in all threads: the default dtype is the process's
_OUTSIDE = torch.float32  # the dtype to be put back when the last one ends


@contextmanager
def torch_defaults() -> Iterator[None]:
    """A block, or a function, in which new tensors are by default float32 and on the CPU.

    Threads may be in such blocks at once. Another thread, outside, sees float32 too until the last
    of them ends.
    """
    global _INSIDE, _OUTSIDE
    with _LOCK:
        if _INSIDE == 0:
            _OUTSIDE = torch.get_default_dtype()
            torch.set_default_dtype(torch.float32)
        _INSIDE += 1

    elsewhere = torch.get_default_device().type != "cpu"
    try:
        with torch.device("cpu") if elsewhere else nullcontext():
            yield
    finally:
        with _LOCK:
            _INSIDE -= 1
            if _INSIDE == 0:
                torch.set_default_dtype(_OUTSIDE)
