"""Entries of s3prl's hub: models built from a seed, and their code and settings."""

import contextlib
import hashlib
import inspect
import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from mt4ssl_bench.encoders.identity import code, imported


class Expert(nn.Module):
    """The module that an entry builds, with what is called here: s3prl ships no types."""

    def get_downsample_rates(self, key: str) -> int:
        """Return the stride in samples per frame."""
        raise NotImplementedError


Entry = Callable[..., Expert]


def seeded(entry: Entry, options: Mapping[str, str], *, seed: int) -> Expert:
    """Return what a hub entry builds; weights that its checkpoint lacks depend on the seed."""
    # a download shows its progress on stderr
    with contextlib.redirect_stdout(io.StringIO()), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return entry(**options)


@contextlib.contextmanager
def downloads() -> Iterator[dict[str, Path]]:
    """Yield the local files by URL that hub entries download or find in s3prl's cache."""
    from s3prl.util import download

    used: dict[str, Path] = {}
    fetch = download._download  # noqa: SLF001 - s3prl offers no other place

    def noted(filepath: Path, url: str, **options: object) -> None:
        fetch(filepath, url, **options)
        used[url] = filepath

    download._download = noted  # noqa: SLF001
    try:
        yield used
    finally:
        download._download = fetch  # noqa: SLF001


def files(entry: Entry, options: Mapping[str, str]) -> list[str]:
    """Return a hub entry's code, and the settings files beside it and among its options."""
    folder = Path(inspect.getfile(entry)).parent
    files = sorted(folder.glob("*.yaml")) + [Path(value) for value in options.values()]
    return [
        inspect.getsource(entry),
        *(file.read_text("utf-8") for file in files if file.is_file()),
    ]


def sources(entry: Entry) -> dict[str, str]:
    """Return the digests of the modules of its library that a hub entry imports."""
    file = Path(inspect.getfile(entry)).resolve()
    root = file.parents[len(entry.__module__.split(".")) - 1]
    library = root / entry.__module__.split(".")[0]
    return code(imported(file, [root], library), [root])


def scheme_1_code(entry: Entry, options: Mapping[str, str]) -> Tensor:
    """Return scheme 1's digest of a hub entry: its package's files, its code, its settings file."""
    package = sorted(
        p for p in Path(inspect.getfile(entry)).parent.iterdir() if p.suffix in {".py", ".yaml"}
    )
    parts = [file.read_bytes() for file in package] + [inspect.getsource(entry).encode()]
    parts += [Path(value).read_bytes() for value in options.values() if Path(value).is_file()]
    return torch.frombuffer(bytearray(hashlib.sha256(b"".join(parts)).digest()), dtype=torch.uint8)
