"""The front end's matrix products against torch's own convolutions."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mt4ssl_bench.data.frame_grid import STRIDES, frame_count, frame_counts
from mt4ssl_bench.upstream import kernels
from mt4ssl_bench.upstream.config import FrontendConfig
from mt4ssl_bench.upstream.frontend import Frontend, normalize


def plain(frontend: Frontend, waveforms: Tensor) -> Tensor:
    x = waveforms[:, None]
    for weight, norm, stride in zip(frontend.convs, frontend.conv_norms, STRIDES, strict=True):
        x = F.gelu(norm(F.conv1d(x, weight, stride=stride).transpose(1, 2))).transpose(1, 2)
    return x.transpose(1, 2)


@pytest.mark.parametrize("tile", [1, 160, 2**20])  # windows at a time: one, ten, all
@pytest.mark.parametrize("samples", [400, 401, 719, 720, 8_000, 8_123])
def test_outputs_and_gradients_equal_torch_convolutions(
    samples: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "TILE", tile)
    torch.manual_seed(0)
    frontend = Frontend(FrontendConfig(channels=8), dim=8).double()
    waveforms = torch.randn(2, samples, dtype=torch.float64)
    weight = torch.randn(2, frame_count(samples), 8, dtype=torch.float64)
    found, expected = frontend.convolve(waveforms), plain(frontend, waveforms)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    parameters = [p for name, p in frontend.named_parameters() if name.startswith("conv")]
    for a, b in zip(
        torch.autograd.grad((found * weight).sum(), parameters),
        torch.autograd.grad((expected * weight).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


def test_it_trains_under_autocast() -> None:
    torch.manual_seed(0)
    frontend = Frontend(FrontendConfig(channels=8), dim=8)
    waveforms = torch.randn(2, 4_000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        frames = frontend(waveforms)
    frames.float().square().sum().backward()
    assert frontend.convs[1].grad is not None
    assert frontend.convs[1].grad.dtype == torch.float32
    torch.testing.assert_close(frames.float(), frontend(waveforms), atol=0.15, rtol=0)


@pytest.mark.parametrize(
    ("samples", "frames"), [(160_000, 499), (320_000, 999), (400, 1), (399, 0), (800, 2)]
)
def test_frame_counts_follow_the_strides(samples: int, frames: int) -> None:
    assert frame_count(samples) == frames
    assert frame_counts(torch.tensor([samples])).item() == frames


def test_quiet_audio_stays_below_unit_variance_as_published() -> None:
    wave = torch.sin(torch.arange(16_000) * 0.1) * 0.01 * 2**0.5
    assert normalize(wave).var(correction=0).item() == pytest.approx(0.909, abs=0.001)


def test_the_form_for_a_gpu_equals_the_one_for_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "compiled", lambda function: function)
    torch.manual_seed(0)
    frontend, waveforms = (
        Frontend(FrontendConfig(channels=16), 8).double(),
        torch.randn(2, 3_000).double(),
    )
    results = []
    for fused in (False, True):
        frontend.fused = fused
        frontend.zero_grad()
        y = frontend(waveforms)
        (y * torch.arange(y.numel(), dtype=y.dtype).view_as(y).cos()).sum().backward()
        results.append(
            [y.detach(), *(p.grad.clone() for p in frontend.parameters() if p.grad is not None)]
        )
    for cpu, gpu in zip(*results, strict=True):
        torch.testing.assert_close(gpu, cpu, rtol=1e-9, atol=1e-9)
