"""On a GPU: devices and types of a training step, and where the host would wait for the device.

Fake tensors have a device and no values: whatever would wait for a value is an error.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from builders import toy_batch, toy_config, toy_masks, toy_model
from mt4ssl_bench.training.fit import StepLoss, _to_host
from mt4ssl_bench.training.optim import build_optimizer
from mt4ssl_bench.upstream.masking import MaskedFrames
from mt4ssl_bench.upstream.model import MT4SSL

WAITING = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.equal")


class Waits(TorchDispatchMode):
    """Counts operations on whose values the host would wait, in forward and backward passes."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
        name = str(func)
        by_mask = name.startswith(("aten.index.", "aten.index_put")) and any(
            each is not None and each.dtype is torch.bool for each in args[1]
        )
        if by_mask or name.startswith(WAITING):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def on_fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield a function that moves to a GPU that only has devices, types and shapes."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield lambda x: x.to("cuda")
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_a_training_step_on_a_gpu_has_its_types_and_waits_for_nothing(
    monkeypatch: pytest.MonkeyPatch, kind: torch.dtype
) -> None:
    model: MT4SSL = toy_model("encoder.layer_drop=0", "encoder.attention_dropout=0.1").train()
    waves, padding, labels, masked = toy_batch(*toy_masks(2))
    with on_fake_cuda(monkeypatch) as move:
        model.to("cuda")
        batch = move(waves), move(padding), move(labels), MaskedFrames(*map(move, masked))
        with torch.autocast("cuda", dtype=kind):
            losses = model(*batch)
        total = model.total(losses)
        assert losses.hidden.is_cuda
        assert (total.device.type, total.dtype) == ("cuda", torch.float32)
        parameters = [p for p in model.parameters() if p.requires_grad]
        for p in parameters:
            p.grad = torch.zeros_like(p)
        build_optimizer([{"params": parameters}], toy_config().optim).step()
        for _, extractor in model.named_extractors():
            extractor.update(1)
            assert all(value.is_cuda for value in extractor.monitors.values())
        with pytest.raises(DataDependentOutputException):  # the check itself can fail
            total.item()


def test_an_update_waits_for_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy_model("encoder.layer_drop=0", "encoder.attention_dropout=0.1").train()
    batch, read, plain = toy_batch(*toy_masks(2)), list[Tensor](), Tensor.tolist

    def tolist(x: Tensor) -> object:  # it does not go through the dispatcher
        read.append(x)
        return plain(x)

    monkeypatch.setattr(Tensor, "tolist", tolist)
    with Waits() as waits:
        losses = model(*batch)
        model.total(losses).backward()  # type: ignore[no-untyped-call]
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert (waits.names, read) == ([], [])
        _to_host([StepLoss(total=model.total(losses).detach(), count=1)], [grads])
        assert (waits.names, len(read)) == ([], 1)
        losses.hidden[0, 0].item()
        assert len(waits.names) == 1, "the check itself can fail"
