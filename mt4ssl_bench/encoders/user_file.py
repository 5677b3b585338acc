"""An upstream from one Python file of the user's: file.py:Class.

What it computes decides its fingerprint.

The class is built with no argument, or with `device` where it takes one. It has `num_layers`,
`dim`, `stride` (samples per frame) and extract(waveforms (B, N), lengths (B,)) -> (layers (L, B, T,
D), frames (B,)), as features.Upstream says.

Its fingerprint covers the file, the local modules that it imports, its weights and all attributes
of the object. A file or an address that the class reads only while it extracts is not covered: give
such a class an attribute `fingerprint` of its own, which is then part of the digest.
"""

import contextlib
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mt4ssl_bench.checkpoint import fingerprint
from mt4ssl_bench.encoders.identity import (
    OURS,
    code,
    describe,
    identify,
    imported,
    is_library,
    local_roots,
)
from mt4ssl_bench.encoders.protocol import Features, Upstream
from mt4ssl_bench.errors import UpstreamError, with_class
from mt4ssl_bench.registry import hint


class FileUpstream:
    """A user's object behind our protocol.

    Args:
        made: the object.
        name: its name, where it has none of its own.
        source: digests of the files that its code stands in, by path.
        main: the content of its own file.
    """

    # whatever the user wrote
    def __init__(
        self,
        made: Any,  # noqa: ANN401
        name: str,
        source: dict[str, str],
        main: bytes,
    ) -> None:
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
        own_mark, weights = str(getattr(made, "fingerprint", "")), self.modules.state_dict()
        settings = describe(made)
        self.fingerprint = identify(weights, [source, own_mark, settings])
        digest = hashlib.sha256(main + own_mark.encode()).digest()
        old = fingerprint(
            {**weights, "code": torch.frombuffer(bytearray(digest), dtype=torch.uint8)}
        )
        # scheme 1 digested the file and the modules of torch, nothing that came from elsewhere
        covered = len(source) == 1 and not _has_arrays(made)
        self.former = (old,) if covered else ()
        self.insufficient = () if covered else (old,)

    @torch.no_grad()
    def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
        """See Upstream.extract."""
        found = self.made.extract(waveforms, lengths)
        pair: Any = (
            found if isinstance(found, Sequence) and len(found) == 2 else (found, None)
        )  # the check says so
        return Features(*pair)


def build(argument: str, *, device: str) -> FileUpstream:
    """Return the upstream of "file.py:Class", unchecked.

    Raises UpstreamError when it cannot be built.
    """
    path, _, name = argument.partition(":")
    file = Path(path)
    if not file.is_file():
        raise UpstreamError(
            f"{file}: no such file; an upstream of your own is named path/to/file.py:Class"
        )
    with _own_modules(file.resolve().parent) as folder:
        kind = _class(file, name)
        try:
            made = kind(device=device) if "device" in inspect.signature(kind).parameters else kind()
            roots = local_roots(file.resolve().parent)
            ran = {place for place in folder.local().values() if place.is_file()}
            files = {*imported(file.resolve(), roots), *ran}
            return FileUpstream(
                made, f"{file.stem}:{name}", code(sorted(files), roots), file.read_bytes()
            )
        # the user's code raises what it likes
        except (Exception, SystemExit) as error:  # noqa: BLE001
            raise UpstreamError(f"{argument}: could not be built ({with_class(error)})") from None


def load_file(argument: str, *, device: str) -> Upstream:
    """Return the upstream of "file.py:Class".

    Raises UpstreamError naming the first check that it fails.
    """
    from mt4ssl_bench.encoders.conformance import require

    upstream = build(argument, device=device)
    require(upstream)
    return upstream


def _class(file: Path, name: str) -> Any:  # noqa: ANN401 - whatever the user wrote
    """Import the file and return its class called `name`."""
    module = _import(file)
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
    return getattr(module, name)


def _import(file: Path) -> ModuleType:
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


@dataclass
class _Folder:
    """Where the newest user's file lies, and the names of the modules that were there before it."""

    path: Path
    before: frozenset[str]

    def local(self) -> dict[str, Path]:
        """Return the file or, of a package without one, the folder of local modules imported
        since.
        """
        places = {
            name: next((p for p in _places(module) if p), "")
            for name, module in list(sys.modules.items())
            if name not in self.before and name.partition(".")[0] != OURS
        }
        return {
            name: place
            for name, text in places.items()
            if text and (place := Path(text).resolve()).exists() and not is_library(place)
        }


def _places(module: ModuleType) -> list[str | None]:
    """Return where a module comes from; a lazy module's own __getattr__ is not asked."""
    values = getattr(module, "__dict__", {})
    return [values.get("__file__"), *(values.get("__path__") or ())]


_NEWEST: list[_Folder] = []  # at most one


@contextlib.contextmanager
def _own_modules(path: Path) -> Iterator[_Folder]:
    """Import what lies beside a user's file as Python does for a script, and each time anew.

    Two files may import different modules of one name, and a module may have changed.
    """
    for old in _NEWEST:
        for name in old.local():
            del sys.modules[name]
        sys.path.remove(str(old.path))
    _NEWEST[:] = [folder := _Folder(path, frozenset(sys.modules))]
    importlib.invalidate_caches()
    written = sys.dont_write_bytecode
    sys.path.insert(0, str(path))
    sys.dont_write_bytecode = True  # a stale .pyc would pass for a file changed in the same second
    try:
        yield folder
    finally:
        sys.dont_write_bytecode = written
        sys.path.remove(str(path))
        sys.path.append(str(path))  # for imports inside functions; libraries come first again


def _has_arrays(made: object) -> bool:
    """Return whether an object that is no module holds tensors or arrays outside of modules."""
    return not isinstance(made, nn.Module) and any(
        isinstance(value, torch.Tensor | np.ndarray) for value in vars(made).values()
    )


def _number(made: Any, key: str) -> Any:  # noqa: ANN401
    """Return an attribute, numpy's integers as Python's."""
    value = getattr(made, key, None)
    return int(value) if isinstance(value, Integral) else value


def _is_module(value: object) -> bool:
    return isinstance(value, nn.Module)
