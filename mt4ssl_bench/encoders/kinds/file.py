"""Upstreams from your own Python file: file.py:Class.

The class is built with no argument, or with `device` if it takes one. It has `num_layers`, `dim`,
`stride` (samples per frame) and extract(waveforms (B, N), lengths (B,)) -> (layers (L, B, T, D),
frames (B,)), as protocol.Upstream says.

The fingerprint covers the file, the local modules that it imports, its weights and all attributes
of the object. It does not cover what the class reads only while it extracts: such a class needs an
attribute `fingerprint`, which is then part of the digest.
"""

import contextlib
import hashlib
import importlib.util
import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    OPAQUE,
    OURS,
    code,
    describe,
    identify,
    imported,
    is_library,
    local_roots,
    passed_over,
)
from mt4ssl_bench.encoders.kind import EncoderKind
from mt4ssl_bench.encoders.protocol import Features, Upstream
from mt4ssl_bench.errors import UpstreamError, with_class
from mt4ssl_bench.registry import hint

LOGGER = logging.getLogger(__name__)


class FileUpstream:
    """An object of a user's class behind the protocol.

    Args:
        made: The object.
        name: Its name, if it has no attribute `name`.
        source: Digests of the files with its code, by path.
        main: Content of its own file.
    """

    def __init__(
        self,
        made: Any,  # noqa: ANN401 - whatever the user wrote
        name: str,
        source: Mapping[str, str],
        main: bytes,
    ) -> None:
        self.made = made
        modules = (
            [made]
            if isinstance(made, nn.Module)
            else [v for v in vars(made).values() if _is_module(v)]
        )
        more = list(passed_over(made, modules))  # several of one place: a module with slots
        nested = [value for _, value in more if isinstance(value, nn.Module)]
        self.modules = nn.ModuleList([*modules, *nested]).eval()
        own = getattr(made, "name", None)
        self.name: str = own if isinstance(own, str) else name
        # the protocol's checks report an attribute that is missing or wrong
        self.num_layers: int = _number(made, "num_layers")
        self.dim: int = _number(made, "dim")
        self.stride: int = _number(made, "stride")
        self.parameters = sum(p.numel() for p in self.modules.parameters())
        own_mark, weights = str(getattr(made, "fingerprint", "")), self.modules.state_dict()
        settings: list[object] = [source, own_mark, describe(made)]
        passed = [  # weights are digested with the others
            (place, "weights" if isinstance(value, nn.Module) else value)
            for place, value in more
            if value is not OPAQUE
        ]
        self.fingerprint = identify(weights, [*settings, passed] if passed else settings)
        opaque = [place for place, value in more if value is OPAQUE]
        if opaque and not own_mark:
            LOGGER.warning(
                "%s: its fingerprint does not cover what '%s' holds; give the class an attribute "
                "`fingerprint` (text) that changes with it",
                self.name,
                "', '".join(opaque),
            )
        digest = hashlib.sha256(main + own_mark.encode()).digest()
        direct = nn.ModuleList(modules).state_dict()
        old = fingerprint(
            {**direct, "code": torch.frombuffer(bytearray(digest), dtype=torch.uint8)}
        )
        # scheme 1 digested the file and the modules of torch, nothing that came from elsewhere
        covered = len(source) == 1 and not _has_arrays(made) and not passed
        self.former = (old,) if covered else ()
        self.insufficient: tuple[str, ...] = () if covered else (old,)
        if passed:  # scheme 2 covered less in earlier revisions
            self.insufficient += (identify(direct, settings),)

    @torch.no_grad()
    def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
        """See Upstream.extract."""
        return self.hidden_states(waveforms, lengths)

    def hidden_states(self, waveforms: Tensor, lengths: Tensor) -> Features:
        """Return what extract() does, with gradients."""
        returned = self.made.extract(waveforms, lengths)
        is_pair = isinstance(returned, Sequence) and len(returned) == 2
        return Features(*(list(returned) if is_pair else [returned, None]))  # a check reports None


def build(argument: str, *, device: str) -> FileUpstream:
    """Return the upstream of "file.py:Class", unchecked; raises UpstreamError if it fails."""
    path, _, name = argument.partition(":")
    file = Path(path)
    if not file.is_file():
        raise UpstreamError(f"{file}: no such file; expected path/to/file.py:Class")
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
    """Return the upstream of "file.py:Class"; raises UpstreamError naming a check that fails."""
    from mt4ssl_bench.encoders.conformance import require

    upstream = build(argument, device=device)
    require(upstream)
    return upstream


KIND = EncoderKind(
    "file",
    "your own class; check-upstream tests it",
    load_file,
    example="<file.py>:<Class>",
)


def _class(file: Path, name: str) -> Callable[..., object]:
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
    made: Callable[..., object] = getattr(module, name)
    return made


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
    """Folder of the newest user's file, and names of the modules imported before it."""

    path: Path
    before: frozenset[str]

    def local(self) -> dict[str, Path]:
        """Return the places of local modules imported since: a file, or a package's folder."""
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
    """Import modules beside a user's file as Python does for a script, again for each file.

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
    """Return whether an object that is not a module holds tensors or arrays itself."""
    return not isinstance(made, nn.Module) and any(
        isinstance(value, torch.Tensor | np.ndarray) for value in vars(made).values()
    )


def _number(made: object, key: str) -> Any:  # noqa: ANN401 - for the check to report
    """Return an attribute, numpy's integers as Python's."""
    value = getattr(made, key, None)
    return int(value) if isinstance(value, Integral) else value


def _is_module(value: object) -> bool:
    return isinstance(value, nn.Module)
