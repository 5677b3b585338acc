"""The feature store: one pass per upstream, corpus and precision, within a budget of disk.

Beyond it, no storing.

Entries are found by the digests of weights and corpus, never by a name. One process makes an entry
while others wait for it; any number may read.
"""

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from filelock import FileLock, Timeout

from mt4ssl_bench.config import NOT_NEGATIVE, Bounds
from mt4ssl_bench.data.file_state import require_unchanged
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import BenchError, CheckpointError
from mt4ssl_bench.features.file import (
    FeatureSet,
    Header,
    Precision,
    StoredFeatures,
    Writer,
    decode,
    encode_named,
    read_header,
)
from mt4ssl_bench.features.forward_pass import Crops, Pass, Values
from mt4ssl_bench.settings import NEVER

LOGGER = logging.getLogger(__name__)
GIB = 2**30
DAY = 86_400.0
LOCKS = ".locks"  # one file per entry; a lock ends with its process, however that ends


@dataclass(frozen=True, kw_only=True)
class StoreConfig:
    """Where frozen features are kept and how much disk they may take."""

    precision: Precision = "fp16"  # int8: with a scale for each frame of each layer
    limit_gb: float = field(default=20.0, metadata=NEVER)  # of all entries; the unused ones go

    BOUNDS: ClassVar[Bounds] = {NOT_NEGATIVE: "limit_gb"}


@dataclass(frozen=True)
class Entry:
    """One split's features on disk; `used` is when they were last asked for (seconds since
    1970).
    """

    file: Path
    header: Header
    bytes: int
    used: float
    whole: bool


class LiveFeatures(FeatureSet):
    """Features that are not kept: every rows() runs the upstream over those utterances once more.

    They are rounded as stored ones are, so that the room on a disk does not move a score.
    """

    def __init__(self, work: Pass, cuts: Sequence[Any], precision: Precision) -> None:
        self.precision = precision
        self.layers, self.dim = work.upstream.num_layers, work.upstream.dim
        self._work, self._cuts = work, {cut.id: cut for cut in cuts}

    def rows(self, names: Sequence[str]) -> list[Values]:
        """See FeatureSet.rows."""
        made = dict(
            pair for batch in self._work([self._cuts[name] for name in names]) for pair in batch
        )
        stored = [encode_named(name, made[name], self.precision) for name in names]
        return [decode(one, self.precision) for one in stored]

    def count(self, name: str) -> int:
        """See FeatureSet.count; frames are what the duration says, which may be one off."""
        return self._work.rows([self._cuts[name]])


class FeatureStore:
    """All features kept under `root`; frames() and means() make what is missing."""

    def __init__(self, root: Path, config: StoreConfig) -> None:
        self.root, self.config = root, config

    def frames(
        self, upstream: Upstream, digest: str, split: str, cuts: Sequence[Any], *, corpus: str = ""
    ) -> FeatureSet:
        """Return every frame's hidden states of the cuts; `corpus` is a name for people, `digest`
        what counts.
        """
        return self.features(Pass(upstream), digest, split, cuts, corpus=corpus)

    def means(
        self,
        upstream: Upstream,
        digest: str,
        split: str,
        cuts: Sequence[Any],
        crops: Crops,
        *,
        corpus: str = "",
    ) -> FeatureSet:
        """Return the mean over real frames of each crop: exact for heads that are linear up to a
        mean over time.
        """
        return self.features(Pass(upstream, crops), digest, split, cuts, corpus=corpus)

    def features(
        self, work: Pass, digest: str, split: str, cuts: Sequence[Any], *, corpus: str = ""
    ) -> FeatureSet:
        """Return what a pass makes of the cuts, from the store where it is there.

        Raises AudioChangedError for a cut whose file is not the one that was prepared.
        """
        for cut in cuts:
            require_unchanged(cut)
        upstream = work.upstream
        header = header_of(work, cuts, digest, split, self.config.precision, corpus)
        members = hashlib.sha256("\n".join(sorted(cut.id for cut in cuts)).encode()).hexdigest()[:8]
        folder, name = f"{digest}-{header.precision}", f"{split}.{work.kind}-{members}.bin"
        file = self._place(upstream, folder, name)
        names = {cut.id for cut in cuts}

        def remake(
            name: str,
        ) -> Values:  # in the batch that it was made in, whose shapes decide the last bits
            return next(found for batch in work(cuts, done=names - {name}) for _, found in batch)

        if not _whole(file):
            need = work.rows(cuts) * header.row_bytes
            self.root.mkdir(parents=True, exist_ok=True)
            with _locked(self.root, file, f"features of {split} from {upstream.name}"):
                if not _whole(file):  # nobody else made them while we waited
                    try:
                        self._make_room(file, need)
                    except NoRoom as error:
                        LOGGER.warning("%s", _cost(error, header, need))
                        return LiveFeatures(work, cuts, header.precision)
                    self._write(file, header, work, cuts)
        with suppress(OSError):  # a store of somebody else's may be read all the same
            os.utime(file.with_suffix(".index"))
        try:
            return StoredFeatures(file, remake)
        except CheckpointError as error:
            LOGGER.warning("%s; computing it again", error)
            with _locked(self.root, file, f"features of {split}"):
                _remove(file)
            return self.features(work, digest, split, cuts, corpus=corpus)

    def _place(self, upstream: Upstream, folder: str, name: str) -> Path:
        """Return the file of an entry, under an earlier release's fingerprint where it is there."""
        file = self.root / f"{upstream.fingerprint}-{folder}" / name
        if _whole(file):
            return file
        for mark in getattr(upstream, "former", ()):
            old = self.root / f"{mark}-{folder}" / name
            if _whole(old):
                return old
        for mark in getattr(upstream, "insufficient", ()):
            old = self.root / f"{mark}-{folder}" / name
            if _whole(old):
                LOGGER.warning(
                    "%s: not used, its fingerprint %s did not cover all settings of %s; "
                    "computing the features again",
                    old,
                    mark,
                    upstream.name,
                )
        return file

    def _write(self, file: Path, header: Header, work: Pass, cuts: Sequence[Any]) -> None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            writer = Writer(file, header)
            if writer.done:
                LOGGER.info(
                    "%s: %d of %d utterances are there from an interrupted pass",
                    file,
                    len(writer.done),
                    len(cuts),
                )
            kind = header.kind.split("-", maxsplit=1)[0]
            writer.write(
                work(cuts, done=writer.done, title=f"{kind} {header.split} of {header.upstream}")
            )
        except OSError as error:
            raise BenchError(
                f"{file}: could not be written ({error}); free disk space or choose another --store"
            ) from None

    def _make_room(self, file: Path, need: int) -> None:
        """Delete the entries unused for longest until `need` bytes fit.

        Raises NoRoom when they never will.
        """
        limit, free = self.config.limit_gb * GIB, shutil.disk_usage(self.root).free
        kept = [entry for entry in entries(self.root) if entry.file != file]
        free += file.stat().st_size if file.exists() else 0
        leaving = []
        for entry in sorted(kept, key=lambda entry: entry.used):
            if sum(e.bytes for e in kept) + need <= min(limit, free + sum(e.bytes for e in kept)):
                break
            if entry.file.parent != file.parent:  # of another model, corpus or precision
                leaving.append(entry)
                kept.remove(entry)
                free += entry.bytes
        total = sum(entry.bytes for entry in kept) + need
        if total > limit or need > free:
            raise NoRoom(total, self.config.limit_gb, free)
        for entry in leaving:
            LOGGER.info(
                "store: removing %s, unused for longest, to stay within the limit", entry.file
            )
            _remove_unused(self.root, entry)


class NoRoom(Exception):  # noqa: N818 - not an error: features are then computed on the fly
    """Features that neither the limit nor the disk can take: the bytes of all, the limit in GiB,
    the bytes free.
    """

    def __init__(self, total: float, limit_gb: float, free: float) -> None:
        super().__init__(total, limit_gb, free)
        self.total, self.limit_gb, self.free = total, limit_gb, free


def header_of(
    work: Pass, cuts: Sequence[Any], digest: str, split: str, precision: Precision, corpus: str
) -> Header:
    """Return what the features that a pass makes of the cuts will be called."""
    return Header(
        upstream=work.upstream.name,
        fingerprint=work.upstream.fingerprint,
        corpus=corpus,
        digest=digest,
        split=split,
        kind=work.kind,
        utterances=len(cuts),
        hours=round(sum(cut.duration for cut in cuts) / 3600, 4),
        precision=precision,
        layers=work.upstream.num_layers,
        dim=work.upstream.dim,
    )


def entries(root: Path) -> list[Entry]:
    """Return what a store holds, unfinished passes among it; an unreadable index counts as none."""
    found = []
    for file in sorted(root.glob("*/*.bin")):
        index, journal = file.with_suffix(".index"), file.with_suffix(".index.partial")
        source = index if index.exists() else journal
        header = read_header(source)
        with suppress(FileNotFoundError):  # removed by another process meanwhile
            if header:
                size = file.stat().st_size + source.stat().st_size
                found.append(Entry(file, header, size, source.stat().st_mtime, source == index))
    return found


def clear(root: Path, *, upstream: str = "", older_than: float | None = None) -> list[Entry]:
    """Delete entries of `upstream` (name, fingerprint or its first 8) unused for `older_than` days.

    Returns them.

    What another process is making at this moment stays.
    """
    chosen = [
        entry
        for entry in entries(root)
        if upstream
        in {"", entry.header.upstream, entry.header.fingerprint, entry.header.fingerprint[:8]}
        and (older_than is None or time.time() - entry.used > older_than * DAY)
    ]
    return [entry for entry in chosen if _remove_unused(root, entry)]


def _cost(found: NoRoom, header: Header, need: int) -> str:
    smaller = replace(header, precision="int8").row_bytes / header.row_bytes * need
    advice = f", store.precision=int8 ({smaller / GIB:.3g} GiB)" if smaller < need else ""
    return (
        f"{header.split}: features need {found.total / GIB:.3g} GiB; store.limit_gb allows "
        f"{found.limit_gb:g} and the disk has {found.free / GIB:.3g} free; they are computed on "
        f"the fly: {header.upstream} hears {header.hours:.3g} h of audio again in every epoch, "
        "once for all learning rates; to store them: "
        f"store.limit_gb={found.total / GIB * 1.05:.3g}{advice}, or another --store"
    )


def _whole(file: Path) -> bool:
    return file.with_suffix(".index").exists()


@contextmanager
def _locked(root: Path, file: Path, what: str) -> Iterator[None]:
    """Hold the entry's lock, waiting for another process that makes it."""
    lock = _lock(root, file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        LOGGER.info("%s: another process is making them; waiting for it", what)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _lock(root: Path, file: Path) -> FileLock:
    (root / LOCKS).mkdir(parents=True, exist_ok=True)
    return FileLock(root / LOCKS / f"{file.parent.name}.{file.stem}")


def _remove_unused(root: Path, entry: Entry) -> bool:
    """Remove an entry unless another process is making it.

    One that is being read stays readable to its readers.
    """
    lock = _lock(root, entry.file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    try:
        _remove(entry.file)
    finally:
        lock.release()
    return True


def _remove(file: Path) -> None:
    """Remove the index first: values without one count for nothing."""
    for suffix in (".index", ".index.partial", ".bin"):
        file.with_suffix(suffix).unlink(missing_ok=True)
    with suppress(OSError):  # not empty
        file.parent.rmdir()
