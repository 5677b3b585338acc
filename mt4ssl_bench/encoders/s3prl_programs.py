"""s3prl's own programs in this process.

What newer libraries took from under them is put back, and no more.

* huggingface_hub 1 dropped HfFolder and Repository, which s3prl.run_downstream imports and needs
    only to push models;
* torchaudio.load needs torchcodec since torchaudio 2.9; where that is missing, soundfile reads the
    file;
* torch.load unpickles no objects since torch 2.6; run_downstream's checkpoints hold an
    argparse.Namespace.
"""

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from typing import Any

import soundfile
import torch
from torch import Tensor

from mt4ssl_bench.errors import ConfigError, UpstreamError
from mt4ssl_bench.registry import hint
from mt4ssl_bench.wheels import import_torchaudio


def run(arguments: Sequence[str]) -> None:
    """Hand over to s3prl.main when the first argument is a problem (SuperbPR), to
    s3prl.run_downstream otherwise.

    Raises ConfigError for an unknown problem, UpstreamError when a package that s3prl's programs
    need is missing.
    """
    bridge()
    is_problem = bool(arguments) and not arguments[0].startswith("-")
    try:
        program = importlib.import_module("s3prl.main" if is_problem else "s3prl.run_downstream")
    except ImportError as error:
        raise UpstreamError(
            f"s3prl's programs cannot be imported ({error}); they need more than its models: "
            "pip install 'mt4ssl-bench[s3prl]'"
        ) from None
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
    """Put back in this process what s3prl's programs import; see above."""
    import huggingface_hub

    torchaudio: Any = import_torchaudio("s3prl's programs")

    for name in ("HfFolder", "Repository"):
        if not hasattr(huggingface_hub, name):
            setattr(huggingface_hub, name, _Gone)
    if importlib.util.find_spec("torchcodec") is None:
        torchaudio.load = _load
    torch.serialization.add_safe_globals([argparse.Namespace])


class _Gone:
    """Stands for a class that huggingface_hub no longer has."""

    def __init__(self, *_: object, **__: object) -> None:
        raise UpstreamError(
            "pushing to the Hugging Face Hub from s3prl needs an older package: huggingface_hub<1"
        )

    save_token = __init__


def _load(
    uri: Any,  # noqa: ANN401 - a path or an open file, as torchaudio.load takes it
    frame_offset: int = 0,
    num_frames: int = -1,
    *_: object,
    channels_first: bool = True,
    **__: object,
) -> tuple[Tensor, int]:
    """Return float samples (channels, N) in [-1, 1] and the file's own rate, as torchaudio.load
    does.
    """
    samples, rate = soundfile.read(
        uri, frames=num_frames, start=frame_offset, dtype="float32", always_2d=True
    )
    found = torch.from_numpy(samples)
    return (found.t() if channels_first else found), rate
