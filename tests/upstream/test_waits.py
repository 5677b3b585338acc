"""On a GPU: devices and types of a training step, and where the host would wait for the device.

Fake tensors have a device and no values: whatever would wait for a value is an error.
"""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException
from waits import Waits, on_fake_cuda

from builders import toy_batch, toy_config, toy_masks, toy_model
from mt4ssl_bench.encoders.finetuning import TuneConfig
from mt4ssl_bench.training.fit import StepLoss, _to_host
from mt4ssl_bench.training.optim import build_optimizer
from mt4ssl_bench.upstream import kernels
from mt4ssl_bench.upstream.checkpoints.finetuned import TunedMT4SSL
from mt4ssl_bench.upstream.masking import MaskedFrames
from mt4ssl_bench.upstream.model import MT4SSL


@pytest.mark.parametrize("frontend", [[], ["frontend.mels=8", "frontend.warp=0.1"]])
@pytest.mark.parametrize("flash", [False, True])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_a_training_step_on_a_gpu_has_its_types_and_waits_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
    kind: torch.dtype,
    flash: bool,  # noqa: FBT001 - a parameter of the test
    frontend: list[str],
) -> None:
    keys = ["encoder.layer_drop=0", "encoder.attention_dropout=0.1", *frontend]
    model: MT4SSL = toy_model(*keys).train()
    waves, padding, labels, masked = toy_batch(*toy_masks(2))
    monkeypatch.setattr(kernels, "flash_is_there", lambda device: flash)  # noqa: ARG005
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


def test_the_masks_of_fine_tuning_are_copied_without_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tuned = TunedMT4SSL(toy_model(), TuneConfig(time_prob=0.5, channel_prob=0.5))
    draws = np.random.default_rng(0)
    with on_fake_cuda(monkeypatch) as move:
        tuned.to("cuda")
        x = move(torch.zeros(2, 30, 32))
        with Waits(real_host=True) as waits:
            masked = tuned._mask(x, [30, 20], draws)
        assert (masked.device.type, masked.shape, waits.names) == ("cuda", x.shape, [])
        with Waits(real_host=True) as waits:
            torch.ones(3).to("cuda")
        assert len(waits.names) == 1, "the check itself can fail"
