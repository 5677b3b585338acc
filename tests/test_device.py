"""Devices: what computes on CUDA."""

import pytest
import torch

from mt4ssl_bench import device
from mt4ssl_bench.device import arithmetic, pick_device, seed_torch
from mt4ssl_bench.errors import UpstreamError


def test_picking_a_device_switches_off_what_computes_otherwise_than_in_fp32() -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cuda.enable_cudnn_sdp(enabled=True)
    assert pick_device("cpu") == "cpu"
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_a_gpu_that_is_visible_and_broken_is_an_error_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if torch.cuda.is_available():
        pytest.skip("its GPU works")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UpstreamError) as caught:
        pick_device()
    assert str(caught.value).startswith("--device auto: cuda is visible but does not work (")
    assert str(caught.value).endswith("); expected a working driver, or --device cpu")
    assert "\n" not in str(caught.value)
    with pytest.raises(UpstreamError, match="--device cuda: not available here"):
        pick_device("cuda")


def test_tf32_is_on_only_in_its_block() -> None:
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    pick_device("cpu")
    with arithmetic("tf32", "cuda"):
        assert all(each.allow_tf32 for each in flags)
    assert not any(each.allow_tf32 for each in flags)
    with arithmetic("bf16", "cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_a_seed_is_torch_s() -> None:
    torch.manual_seed(7)
    expected = torch.rand(5)
    seed_torch(7)
    assert torch.equal(torch.rand(5), expected)


def test_nothing_goes_on_before_values_are_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[torch.Tensor] = []
    monkeypatch.setattr(device, "to_host", lambda x: taken.append(x) or x)
    x = torch.ones(2)
    assert device.moved(x, "cpu") is x
    assert taken == [x], "a copy that is not waited for may be read too early"
