"""Devices: what computes on CUDA."""

import torch

from mt4ssl_bench.device import pick_device


def test_picking_a_device_switches_off_what_computes_otherwise_than_in_fp32() -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cuda.enable_cudnn_sdp(enabled=True)
    assert pick_device("cpu") == "cpu"
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cuda.cudnn_sdp_enabled()
