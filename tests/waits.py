"""A GPU of fake tensors, and a count of the places where the host would wait for it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITING = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.equal")


class Waits(TorchDispatchMode):
    """Counts operations on whose values the host would wait, in forward and backward passes.

    With `real_host`, tensors of the host have values, though those of the device are fake.
    """

    def __init__(self, *, real_host: bool = False) -> None:
        super().__init__()
        self.real_host = real_host
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
        name = str(func)
        by_mask = name.startswith(("aten.index.", "aten.index_put")) and any(
            each is not None and each.dtype is torch.bool for each in args[1]
        )
        waits = by_mask or name.startswith(WAITING)
        if self.real_host:
            waits = waits and _on_device(args, kwargs or {})
        if waits or _blocks(name, args, kwargs or {}):
            self.names.append(name)
        if self.real_host and not _on_device(args, kwargs or {}):
            with unset_fake_temporarily():
                return func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _on_device(args: Any, kwargs: Any) -> bool:
    fake = any(isinstance(each, FakeTensor) for each in tree_leaves((args, kwargs)))
    return fake or torch.device(kwargs.get("device") or "cpu").type == "cuda"


def _blocks(name: str, args: Any, kwargs: Any) -> bool:
    """Return whether a copy between host and device waits for the device."""
    if not name.startswith("aten._to_copy") or kwargs.get("device") is None:
        return False
    there, here = torch.device(kwargs["device"]).type, args[0].device.type
    # a copy to the host waits in any case; one from pinned memory goes on beside the host
    return there != here and (there == "cpu" or not kwargs.get("non_blocking"))


@contextmanager
def on_fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield a function that moves to a GPU that only has devices, types and shapes."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(Tensor, "pin_memory", lambda x: x)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        # cuDNN would ask for a driver; torch's own kernels have the same types
        with (
            torch.backends.cudnn.flags(enabled=False),
            FakeTensorMode(allow_non_fake_inputs=True),
        ):
            yield lambda x: x.to("cuda")
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
