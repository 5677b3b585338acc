"""s3prl's own programs in this process, with what newer libraries no longer offer them.

* huggingface_hub 1 dropped HfFolder and Repository, which s3prl.run_downstream imports, but needs
  only to push models.
* torchaudio.load requires torchcodec since torchaudio 2.9; without it, soundfile reads the file.
* torch.load unpickles no objects since torch 2.6; checkpoints of run_downstream contain an
  argparse.Namespace.
"""

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import soundfile
import torch
from torch import Tensor

from mt4ssl_bench.errors import ConfigError, UpstreamError
from mt4ssl_bench.registry import hint
from mt4ssl_bench.wheels import import_torchaudio, missing


def run(arguments: Sequence[str]) -> None:
    """Run s3prl.main if the first argument is a problem (SuperbPR), else s3prl.run_downstream.

    Raises:
        ConfigError: If s3prl has no such problem.
        UpstreamError: If a package that s3prl's programs need is missing.
    """
    bridge()
    is_problem = bool(arguments) and not arguments[0].startswith("-")
    try:
        program = importlib.import_module("s3prl.main" if is_problem else "s3prl.run_downstream")
    except ImportError as error:
        raise UpstreamError(missing("s3prl's programs", "s3prl", error)) from None
    if is_problem:
        known = [
            name
            for name in dir(program.problem)
            if isinstance(getattr(program.problem, name), type)
        ]
        if arguments[0] not in known:
            raise ConfigError(f"s3prl has no problem '{arguments[0]}'; {hint(arguments[0], known)}")
    sys.argv = [program.__name__, *arguments]
    program.main()


def bridge() -> None:
    """Restore in this process what s3prl's programs import; see the module's docstring."""
    import huggingface_hub

    torchaudio: Any = import_torchaudio("s3prl's programs")

    for name in ("HfFolder", "Repository"):
        if not hasattr(huggingface_hub, name):
            setattr(huggingface_hub, name, _Gone)
    if importlib.util.find_spec("torchcodec") is None:
        torchaudio.load = _load
    torch.serialization.add_safe_globals([argparse.Namespace])


class _Gone:
    """Placeholder of a class that huggingface_hub no longer has."""

    def __init__(self, *_: object, **__: object) -> None:
        raise UpstreamError(
            "pushing to the Hugging Face Hub from s3prl needs an older package: huggingface_hub<1"
        )

    save_token = __init__


def _load(
    uri: str | Path | BinaryIO,
    frame_offset: int = 0,
    num_frames: int = -1,
    *_: object,
    channels_first: bool = True,
    **__: object,
) -> tuple[Tensor, int]:
    """Return float samples (channels, N) in [-1, 1] and the file's rate, as torchaudio.load."""
    samples, rate = soundfile.read(
        uri, frames=num_frames, start=frame_offset, dtype="float32", always_2d=True
    )
    audio = torch.from_numpy(samples)
    return (audio.t() if channels_first else audio), rate
