"""Checkpoints: files of tensors and plain containers, written atomically.

Loading one never builds other objects. A file whose name ends in .safetensors has the tensors of
"model", and everything else as JSON.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from mt4ssl_bench.errors import CheckpointError, first_line, some

FORMAT = "mt4ssl-bench 1"
SAFETENSORS = ".safetensors"
Payload = dict[str, Any]  # tensors and plain containers


def save(payload: Payload, path: Path) -> None:
    """Write `payload` to `path` atomically.

    Raises:
        CheckpointError: If the file cannot be written (for example, disk full). An existing file
            at `path` is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # a run has one writer: the next one replaces the partial file of a killed one
    aside = path.with_name(f".{path.name}.partial")
    try:
        with aside.open("wb") as file:
            if path.suffix == SAFETENSORS:
                file.write(_to_safetensors(payload))
            else:
                torch.save({"format": FORMAT, **payload}, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        aside.unlink(missing_ok=True)
        # torch's error about the incomplete file hides the error of the disk
        error = error.__context__ if isinstance(error.__context__, OSError) else error
        raise CheckpointError(
            f"{path}: could not be saved ({error}); the previous one, if any, is untouched"
        ) from error


def load(path: Path) -> Payload:
    """Load an MT4SSL checkpoint, and verify the checksums in a .pt file: torch does not.

    Raises:
        CheckpointError: If the file is missing, damaged or of another toolkit.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        if path.suffix == SAFETENSORS:
            payload = _from_safetensors(path)
        else:
            _verify(path)
            payload = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except CheckpointError:
        raise
    # torch raises many kinds of errors for a damaged file
    except Exception as error:  # noqa: BLE001
        if "weights_only" in str(error):
            raise CheckpointError(
                f"{path}: holds objects, expected only tensors and plain containers; "
                "'mt4ssl-bench convert' reads the tensors of third-party checkpoints"
            ) from None
        reason = first_line(error)[:120]
        raise CheckpointError(
            f"{path}: truncated, damaged or not a checkpoint of tensors ({reason})"
        ) from None
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of mt4ssl-bench (format '{FORMAT}')")
    return payload


def _verify(path: Path) -> None:
    """Raise CheckpointError for a zip with a member that fails its checksum."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            if damaged := file.testzip():
                raise CheckpointError(f"{path}: damaged ({damaged} fails its checksum)")


def _to_safetensors(payload: Payload) -> bytes:
    rest = {key: value for key, value in payload.items() if key != "model"}
    tensors = {name: tensor.contiguous() for name, tensor in payload["model"].items()}
    return safetensors.torch.save(tensors, {"format": FORMAT, "json": json.dumps(rest)})


def _from_safetensors(path: Path) -> Payload:
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        rest = json.loads(metadata.get("json", "{}"))
        model = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    return {**rest, "format": metadata.get("format"), "model": model}


def misfit(module: nn.Module, state: Mapping[str, Tensor]) -> str:
    """Return the weights of `state` that do not fit `module`, for a message; "" if all do."""
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
        f"{len(names)} weights {problem}: {some(names)}" for problem, names in groups if names
    )


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """Return a digest of names, types, shapes and values, 16 hex digits."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(
            tensor.view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        )
    return digest.hexdigest()[:16]
