"""Checkpoints: tensors and plain containers only, written aside and renamed, read without
unpickling objects.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from mt4ssl_bench.errors import CheckpointError, first_line, some

FORMAT = "mt4ssl-bench 1"


def save(payload: Mapping[str, Any], path: Path) -> None:
    """Write `payload` to `path`, completely or not at all.

    Raises CheckpointError when the disk does not take it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(
        f".{path.name}.partial"
    )  # one writer per run: a killed one leaves it to the next
    try:
        with aside.open("wb") as file:
            torch.save({"format": FORMAT, **payload}, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        aside.unlink(missing_ok=True)
        # torch's writer, failing to end its file, hides what the disk said
        error = error.__context__ if isinstance(error.__context__, OSError) else error
        raise CheckpointError(
            f"{path}: could not be saved ({error}); the previous one, if any, is untouched"
        ) from error


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint of ours; raises CheckpointError for a missing, damaged or foreign file."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    # a damaged file fails in many ways, all meaning the same to the user
    except Exception as error:  # noqa: BLE001
        if "weights_only" in str(error):
            raise CheckpointError(
                f"{path}: holds objects, not tensors and plain containers alone, and none is ever "
                "built; 'mt4ssl-bench convert' reads the tensors of other people's checkpoints"
            ) from None
        reason = first_line(error)[:120]
        raise CheckpointError(
            f"{path}: truncated, damaged or not a checkpoint of tensors ({reason})"
        ) from None
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of mt4ssl-bench (format '{FORMAT}')")
    return cast("dict[str, Any]", payload)


def misfit(module: nn.Module, state: Mapping[str, Tensor]) -> str:
    """Return which weights of `state` keep it from being loaded into `module`, for a message."""
    own = module.state_dict()
    shapes = [
        f"{name} is {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
        for name in own.keys() & state.keys()
        if state[name].shape != own[name].shape
    ]
    groups = (
        ("missing", own.keys() - state.keys()),
        ("of another shape", shapes),
        ("unknown", state.keys() - own.keys()),
    )
    return " and ".join(
        f"{len(names)} weights {what}: {some(names)}" for what, names in groups if names
    )


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """Return a digest of names, types, shapes and values: equal weights give equal digests under
    any file name.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(
            tensor.view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        )
    return digest.hexdigest()[:16]
