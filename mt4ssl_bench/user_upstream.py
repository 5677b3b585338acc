"""An upstream from one Python file of the user's: file.py:Class; what it computes decides its fingerprint.

The class is built with no argument, or with `device` where it takes one. It has `num_layers`, `dim`, `stride` (samples
per frame) and extract(waveforms (B, N), lengths (B,)) -> (layers (L, B, T, D), frames (B,)), as features.Upstream says.
"""

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from mt4ssl_bench.checkpoint import fingerprint
from mt4ssl_bench.errors import UpstreamError
from mt4ssl_bench.features import Features, Upstream
from mt4ssl_bench.registry import hint


class FileUpstream:
    """A user's object behind our protocol; its digest is of its source file and of the weights that it holds."""

    def __init__(self, made: Any, name: str, source: bytes) -> None:  # noqa: ANN401 - whatever the user wrote
        self.made = made
        modules = (
            [made]
            if isinstance(made, nn.Module)
            else [v for v in vars(made).values() if _is_module(v)]
        )
        self.modules = nn.ModuleList(modules).eval()
        own = getattr(made, "name", None)
        self.name: str = own if isinstance(own, str) else name
        # a missing or wrong attribute is the protocol check's to report
        self.num_layers: int = _number(made, "num_layers")
        self.dim: int = _number(made, "dim")
        self.stride: int = _number(made, "stride")
        self.parameters = sum(p.numel() for p in self.modules.parameters())
        code = hashlib.sha256(source + str(getattr(made, "fingerprint", "")).encode()).digest()
        self.fingerprint = fingerprint(
            {
                **self.modules.state_dict(),
                "code": torch.frombuffer(bytearray(code), dtype=torch.uint8),
            }
        )

    @torch.no_grad()
    def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
        """See Upstream.extract."""
        found = self.made.extract(waveforms, lengths)
        pair: Any = (
            found if isinstance(found, Sequence) and len(found) == 2 else (found, None)
        )  # the check says so
        return Features(*pair)


def build(argument: str, *, device: str) -> FileUpstream:
    """Return the upstream of "file.py:Class", unchecked; raises UpstreamError when it cannot be built."""
    file, _, name = argument.partition(":")
    module = _import(Path(file))
    classes = [
        key
        for key, value in vars(module).items()
        if inspect.isclass(value) and hasattr(value, "extract")
    ]
    if name not in classes:
        known = (
            hint(name, classes) if classes else "it has no class with extract(waveforms, lengths)"
        )
        raise UpstreamError(f"{file}: no upstream class '{name}'; write {file}:<Class>; {known}")
    kind = getattr(module, name)
    try:
        made = kind(device=device) if "device" in inspect.signature(kind).parameters else kind()
        return FileUpstream(made, f"{Path(file).stem}:{name}", Path(file).read_bytes())
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's code raises what it likes
        raise UpstreamError(
            f"{argument}: could not be built ({type(error).__name__}: {error})"
        ) from None


def load_file(argument: str, *, device: str) -> Upstream:
    """Return the upstream of "file.py:Class"; raises UpstreamError naming the first check that it fails."""
    from mt4ssl_bench.protocol import require

    upstream = build(argument, device=device)
    require(upstream)
    return upstream


def _import(file: Path) -> ModuleType:
    if not file.is_file():
        raise UpstreamError(
            f"{file}: no such file; an upstream of your own is named path/to/file.py:Class"
        )
    spec = importlib.util.spec_from_file_location(f"mt4ssl_bench_user_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles look their module up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's code raises what it likes
        raise UpstreamError(
            f"{file}: could not be imported ({type(error).__name__}: {error})"
        ) from None
    return module


def _number(made: Any, key: str) -> Any:  # noqa: ANN401
    """Return an attribute, numpy's integers as Python's."""
    value = getattr(made, key, None)
    return int(value) if isinstance(value, Integral) else value


def _is_module(value: object) -> bool:
    return isinstance(value, nn.Module)
