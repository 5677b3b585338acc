"""The torch device that a name means on this machine, and copies to it that nothing waits for."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from mt4ssl_bench.errors import UpstreamError, first_line

Arithmetic = Literal["fp32", "tf32", "bf16"]  # of products; tf32 exists on CUDA only


def pick_device(name: str = "auto") -> str:
    """Return a torch device name; "auto" takes cuda, then mps, then cpu.

    Sets what computes on CUDA in this process; see fix_arithmetic().

    Raises:
        UpstreamError: If the device does not work here; a GPU that is there and broken is an error
            for "auto", too.
    """
    fix_arithmetic()
    found = name
    if name == "auto":
        other = "mps" if torch.backends.mps.is_available() else "cpu"
        found = "cuda" if torch.cuda.is_available() else other
    try:
        place = torch.ones(1, device=found).add(1).device  # visible is not working
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)
    else:
        return found if name == "auto" else str(place)
    if name == "auto":
        raise UpstreamError(
            f"--device auto: {found} is visible but does not work ({reason}); expected a working "
            "driver, or --device cpu"
        )
    raise UpstreamError(f"--device {name}: not available here ({reason})")


def fix_arithmetic() -> None:
    """Switch off TF32 and cuDNN's attention on CUDA.

    fp32 means fp32: convolutions in TF32, cuDNN's default, differ by 1e-3, and with the batch.
    Gradients of cuDNN's attention can be NaN where there is a mask
    (https://github.com/pytorch/pytorch/issues/196678), and it makes a plan for each new length.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.enable_cudnn_sdp(enabled=False)


@contextmanager
def arithmetic(kind: Arithmetic, device: str) -> Iterator[None]:
    """Compute products in another arithmetic than fp32 in a block; tf32 is for CUDA."""
    where = torch.device(device).type
    if kind == "bf16":
        with torch.autocast(where, dtype=torch.bfloat16):
            yield
    elif kind == "tf32":
        try:
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
            yield
        finally:
            fix_arithmetic()
    else:
        yield


def seed_torch(seed: int) -> None:
    """Seed torch as torch.manual_seed() does, in a hundredth of its time in each update.

    On a machine without an accelerator, that notes down the whole stack of calls for later.
    """
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def moved(x: Tensor, device: torch.device | str) -> Tensor:
    """Return x on the device; from pinned memory, a GPU copies it while the host goes on.

    On the way to the host, nothing goes on before the values are there.
    """
    target = torch.device(device)
    if target.type == "cpu":
        return to_host(x)
    if x.device.type == "cpu" and target.type == "cuda":
        x = x.pin_memory()
    return x.to(target, non_blocking=True)


def to_host(x: Tensor) -> Tensor:
    """Return x on the host."""
    if x.device.type != "cuda":
        return x.cpu()
    return host_memory(x.shape, x.dtype, x.device).copy_(x)


def host_memory(shape: Sequence[int], kind: torch.dtype, device: torch.device | str) -> Tensor:
    """Return an empty tensor on the host for what is copied to or from a device.

    For CUDA it is pinned, from which and into which copies are many times faster.
    """
    pinned = torch.device(device).type == "cuda" and torch.cuda.is_available()
    return torch.empty(shape, dtype=kind, pin_memory=pinned)


def moved_rows(rows: Sequence[Tensor], device: torch.device | str) -> list[Tensor]:
    """Return rows (N_b, ...) on the device, by one copy."""
    if torch.device(device).type == "cpu":
        return list(rows)
    together = moved(torch.cat(list(rows)), device)
    return list(torch.split(together, [len(row) for row in rows]))
