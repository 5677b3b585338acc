"""Entries of s3prl's hub: a model built from a seed, and the code and settings that it consists
of.
"""

import contextlib
import hashlib
import inspect
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from mt4ssl_bench.encoders.identity import code, imported


def seeded(entry: Callable[..., Any], options: dict[str, str], *, seed: int) -> nn.Module:
    """Return what a hub entry builds; weights that its checkpoint lacks depend on the seed."""
    # a download shows its progress on stderr
    with contextlib.redirect_stdout(io.StringIO()), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cast("nn.Module", entry(**options))


def files(entry: Callable[..., Any], options: dict[str, str]) -> list[str]:
    """Return the contents of the settings files beside a hub entry, and of the file that it is
    given.
    """
    folder = Path(inspect.getfile(entry)).parent
    files = sorted(folder.glob("*.yaml")) + [Path(value) for value in options.values()]
    return [
        inspect.getsource(entry),
        *(file.read_text("utf-8") for file in files if file.is_file()),
    ]


def sources(entry: Callable[..., Any]) -> dict[str, str]:
    """Return the digests of the modules of its library that a hub entry imports."""
    file = Path(inspect.getfile(entry)).resolve()
    root = file.parents[len(entry.__module__.split(".")) - 1]
    library = root / entry.__module__.split(".")[0]
    return code(imported(file, [root], library), [root])


def scheme_1_code(entry: Callable[..., Any], options: dict[str, str]) -> Tensor:
    """Return what scheme 1 digested as a hub entry's code: its package's files, the entry and its
    settings file.
    """
    package = sorted(
        p for p in Path(inspect.getfile(entry)).parent.iterdir() if p.suffix in {".py", ".yaml"}
    )
    parts = [file.read_bytes() for file in package] + [inspect.getsource(entry).encode()]
    parts += [Path(value).read_bytes() for value in options.values() if Path(value).is_file()]
    return torch.frombuffer(bytearray(hashlib.sha256(b"".join(parts)).digest()), dtype=torch.uint8)
