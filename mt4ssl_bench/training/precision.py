"""Precision of a training: the forward pass and the loss scaling of fit.autocast."""

from contextlib import AbstractContextManager, nullcontext

import torch


def autocast(kind: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context of a forward pass, in which products have fit.autocast's precision."""
    if kind == "auto":
        kind = "none" if device.type == "cpu" else "bf16"
    if kind == "none":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if kind == "bf16" else torch.float16)


def loss_scaler(kind: str, device: str) -> torch.amp.GradScaler:
    """Return the loss scaling of fp16, from 128 as in the official code; an idle one for others."""
    return torch.amp.GradScaler(torch.device(device).type, init_scale=128.0, enabled=kind == "fp16")
