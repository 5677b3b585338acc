"""The feature store: one pass per upstream, split, kind of features and precision.

Entries are found by the digests of weights and corpus, never by a name. One process computes an
entry while others wait for it; any number may read. Features that do not fit into the limit of the
store or onto the disk are computed on the fly.
"""

import hashlib
import logging
import math
import os
import shutil
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from mt4ssl_bench.config import NOT_NEGATIVE, Bounds
from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.data.file_state import require_unchanged
from mt4ssl_bench.errors import BenchError, CheckpointError
from mt4ssl_bench.features.costs import live_is_cheaper
from mt4ssl_bench.features.crops import FreshCrop
from mt4ssl_bench.features.file import FeatureSet, StoredFeatures, Writer
from mt4ssl_bench.features.forward_pass import Pass, Values
from mt4ssl_bench.features.index import Header, read_header
from mt4ssl_bench.features.live import LiveFeatures
from mt4ssl_bench.features.precision import Precision
from mt4ssl_bench.features.removal import lock_of, remove, remove_unused
from mt4ssl_bench.features.shards import shard_folder, shards
from mt4ssl_bench.files import FOREVER, holding
from mt4ssl_bench.settings import NEVER
from mt4ssl_bench.shared_work import Unit, Work, finish, share
from mt4ssl_bench.training.distributed import ALONE, World

LOGGER = logging.getLogger(__name__)
GIB = 2**30
STRETCH = 1.1  # of the limit is used where features miss it, and the disk has room
DAY = 86_400.0
STARTED = time.time()  # of this command
SKEW = 60.0  # seconds by which clocks of machines may differ


@dataclass(frozen=True, kw_only=True)
class StoreConfig:
    """Precision and size of a feature store."""

    precision: Precision = "fp16"  # of stored features; int8 has a scale per frame and layer
    limit_gb: float = field(
        default=20.0, metadata=NEVER
    )  # largest size; unused entries are deleted

    BOUNDS: ClassVar[Bounds] = {NOT_NEGATIVE: "limit_gb"}


@dataclass(frozen=True)
class Entry:
    """One split's features on disk; `used` is when they were last asked for, in Unix time."""

    file: Path
    header: Header
    bytes: int
    used: float
    whole: bool  # no interrupted pass


@dataclass(frozen=True)
class _Request:
    """What features() was asked for."""

    forward: Pass
    cuts: Sequence[Cut]
    header: Header

    @property
    def folder(self) -> str:
        """Name of the entry's folder, without the fingerprint."""
        return f"{self.header.digest}-{self.header.precision}"

    @property
    def name(self) -> str:
        """Name of the entry's file."""
        ids = "\n".join(sorted(cut.id for cut in self.cuts))
        digest = hashlib.sha256(ids.encode()).hexdigest()[:8]
        return f"{self.header.split}.{self.header.kind}-{digest}.bin"

    @property
    def title(self) -> str:
        """Of the progress of the pass."""
        kind = "means" if self.forward.crops else "frames"
        return f"{kind} {self.header.split} of {self.header.upstream}"

    def opened(self, file: Path) -> StoredFeatures:
        """Return the features in a file; raises CheckpointError if not all are there."""
        return StoredFeatures(file, self.remake, (cut.id for cut in self.cuts))

    def remake(self, name: str) -> Values:
        """Compute an utterance in the batch that it was in: its shape decides the last bits."""
        others = {cut.id for cut in self.cuts} - {name}
        return next(values for batch in self.forward(self.cuts, done=others) for _, values in batch)


class FeatureStore:
    """All features stored under `root`; features() computes what is missing.

    The processes of `world` share each pass, which they write shard by shard.
    """

    def __init__(self, root: Path, config: StoreConfig, world: World = ALONE) -> None:
        self.root, self.config, self.world = root, config, world

    def features(
        self,
        forward: Pass,
        digest: str,
        split: str,
        cuts: Sequence[Cut],
        *,
        corpus: str = "",
        readings: float = math.inf,
    ) -> FeatureSet:
        """Return the features of the cuts; see shared(). Waits for other processes."""
        place = digest, split, cuts
        return finish(self.shared(forward, *place, corpus=corpus, readings=readings))

    def shared(
        self,
        forward: Pass,
        digest: str,
        split: str,
        cuts: Sequence[Cut],
        *,
        corpus: str = "",
        readings: float = math.inf,
    ) -> Work[FeatureSet]:
        """Return the features of the cuts, from the store if they are there.

        Those of crops that each epoch draws anew are not stored, nor does one process store those
        of a GiB or more that cost less time on the fly.

        Args:
            forward: Computes them; its upstream's fingerprint and its kind are part of the entry.
            digest: The corpus's.
            split: The corpus's.
            cuts: Utterances of the split.
            corpus: Name of the corpus, for people.
            readings: How often they will be read; infinite: they are stored in any case.

        Raises:
            AudioChangedError: If an audio file is not the one that was prepared.
        """
        for cut in cuts:
            require_unchanged(cut)
        header = header_of(forward, cuts, digest, split, self.config.precision, corpus)
        if isinstance(forward.crops, FreshCrop):
            return LiveFeatures(forward, cuts, header.precision)
        request = _Request(forward, cuts, header)
        try:
            if stored := self._open(request):
                return stored
            # several processes would measure several things, and they share the pass
            if self.world.size == 1 and live_is_cheaper(forward, cuts, header, self.root, readings):
                return LiveFeatures(forward, cuts, header.precision)
            return (yield from self._make(request))
        except NoRoom as error:
            LOGGER.warning("%s", _cost(error, header, forward.rows(cuts) * header.row_bytes))
            return LiveFeatures(forward, cuts, header.precision)

    def _open(self, request: _Request) -> StoredFeatures | None:
        """Return stored features, None if there are none; damaged ones are removed."""
        file = self._stored_at(request)
        if file is None:
            return None
        with suppress(OSError):  # another user's store may be read only
            os.utime(file.with_suffix(".index"))
        try:
            return request.opened(file)
        except CheckpointError as error:
            LOGGER.warning("%s; computing it again", error)
        with holding(lock_of(self.root, file), FOREVER):
            with suppress(CheckpointError):  # unless another process has done so meanwhile
                return request.opened(file)
            if _finished(file):
                remove(file)
        return None

    def _make(self, request: _Request) -> Work[StoredFeatures]:
        """Compute and store features, or wait for the processes that do; raises NoRoom."""
        header = request.header
        file = self.root / f"{header.fingerprint}-{request.folder}" / request.name
        self.root.mkdir(parents=True, exist_ok=True)

        finished = file.with_suffix(".index").exists
        need = request.forward.rows(request.cuts) * header.row_bytes
        parts: dict[Path, Unit] = {}
        if (self.world.size > 1 or shard_folder(file).exists()) and not finished():
            parts = shards(file, header, request.forward, request.cuts)
            self._make_room(file, need, parts)
            start, title = self.world.rank / self.world.size, request.title
            yield from share(list(parts.values()), over=finished, start=start, title=title)

        def make() -> None:
            self._make_room(file, need, parts)
            self._write(file, request, parts)

        what = f"features of {header.split} from {header.upstream}"
        # a process of the same world only joins the shards
        others = f"{what}: another process is making them; waiting for it"
        busy = others if self.world.size == 1 else ""
        yield from share([Unit(lock_of(self.root, file), finished, make)], busy=busy)
        return request.opened(file)

    def _stored_at(self, request: _Request) -> Path | None:
        """Return the finished file of an entry, under any fingerprint that determines the model."""
        upstream = request.forward.upstream
        for mark in (upstream.fingerprint, *getattr(upstream, "former", ())):
            file = self.root / f"{mark}-{request.folder}" / request.name
            if _finished(file):
                return file
        for mark in getattr(upstream, "insufficient", ()):
            file = self.root / f"{mark}-{request.folder}" / request.name
            if _finished(file):
                LOGGER.warning(
                    "%s: not used, its fingerprint %s did not cover all settings of %s; "
                    "computing the features again",
                    file,
                    mark,
                    upstream.name,
                )
        return None

    def _write(self, file: Path, request: _Request, parts: Collection[Path]) -> None:
        """Write the features of a request: of its shards, then by a pass what they lack."""
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            writer, title = Writer(file, request.header), request.title
            if parts:
                writer.join(parts, request.remake)
            done = writer.done
            if len(done) == len(request.cuts):
                title = ""
            elif done:
                LOGGER.info(
                    "%s: %d of %d utterances are there from an interrupted pass",
                    file,
                    len(done),
                    len(request.cuts),
                )
            writer.write(request.forward.tensors(request.cuts, done=done, title=title))
            shutil.rmtree(shard_folder(file), ignore_errors=True)
        except OSError as error:
            raise BenchError(
                f"{file}: could not be written ({error}); free disk space or choose another --store"
            ) from None

    def _make_room(self, file: Path, need: int, parts: Collection[Path]) -> None:
        """Delete the entries unused for longest until `need` bytes fit; raises NoRoom if never."""
        limit, free = self.config.limit_gb * GIB, shutil.disk_usage(self.root).free
        others = [entry for entry in entries(self.root) if entry.file != file]
        free += sum(part.stat().st_size for part in (file, *parts) if part.exists())
        stored = sum(entry.bytes for entry in others)
        leaving = []
        for entry in sorted(others, key=lambda entry: entry.used):
            if stored + need <= limit and need <= free:
                break
            # of another model, corpus or precision
            if entry.file.parent != file.parent and not self._may_be_read(entry):
                leaving.append(entry)
                stored -= entry.bytes
                free += entry.bytes
        total = stored + need
        if total > limit * STRETCH or need > free:
            raise NoRoom(total, self.config.limit_gb, free)
        if total > limit:
            LOGGER.info(
                "store: %.3g GiB, above store.limit_gb=%g by less than a tenth, are stored",
                total / GIB,
                self.config.limit_gb,
            )
        for entry in leaving:
            LOGGER.info(
                "store: removing %s, unused for longest, to stay within the limit", entry.file
            )
            remove_unused(self.root, entry.file)

    def _may_be_read(self, entry: Entry) -> bool:
        """Return whether a process of this command on another machine may read an entry.

        Over NFS, the removal of its file would end that process. Each opening sets `used`.
        """
        here = int(os.environ.get("LOCAL_WORLD_SIZE", self.world.size))  # torchrun's
        return self.world.size > here and entry.used >= STARTED - SKEW


@dataclass(eq=False)
class NoRoom(Exception):  # noqa: N818 - not an error: features are then computed on the fly
    """Neither the limit nor the disk can take the features."""

    total: float  # bytes, with those that must stay
    limit_gb: float
    free: float  # bytes


def header_of(
    forward: Pass, cuts: Sequence[Cut], digest: str, split: str, precision: Precision, corpus: str
) -> Header:
    """Return the header of the features that a pass computes of the cuts."""
    return Header(
        upstream=forward.upstream.name,
        fingerprint=forward.upstream.fingerprint,
        corpus=corpus,
        digest=digest,
        split=split,
        kind=forward.kind,
        utterances=len(cuts),
        hours=round(sum(cut.duration for cut in cuts) / 3600, 4),
        precision=precision,
        layers=forward.upstream.num_layers,
        dim=forward.upstream.dim,
    )


def entries(root: Path) -> list[Entry]:
    """Return the entries of a store, unfinished ones among them; unreadable ones are skipped."""
    listed = []
    for file in sorted(root.glob("*/*.bin")):
        index, journal = file.with_suffix(".index"), file.with_suffix(".index.partial")
        source = index if index.exists() else journal
        header = read_header(source)
        with suppress(FileNotFoundError):  # removed by another process meanwhile
            if header:
                size = file.stat().st_size + source.stat().st_size
                listed.append(Entry(file, header, size, source.stat().st_mtime, source == index))
    return listed


def clear(root: Path, *, upstream: str = "", older_than: float | None = None) -> list[Entry]:
    """Delete entries and return them; those that another process is writing are kept.

    Args:
        root: The store.
        upstream: Only entries of this name, fingerprint, or first 8 characters of one; "": all.
        older_than: Only entries that were not used for this many days.
    """
    chosen = [
        entry
        for entry in entries(root)
        if upstream
        in {"", entry.header.upstream, entry.header.fingerprint, entry.header.fingerprint[:8]}
        and (older_than is None or time.time() - entry.used > older_than * DAY)
    ]
    return [entry for entry in chosen if remove_unused(root, entry.file)]


def _cost(error: NoRoom, header: Header, need: int) -> str:
    smaller = replace(header, precision="int8").row_bytes / header.row_bytes * need
    advice = f", store.precision=int8 ({smaller / GIB:.3g} GiB)" if smaller < need else ""
    return (
        f"{header.split}: features need {error.total / GIB:.3g} GiB; store.limit_gb allows "
        f"{error.limit_gb:g} and the disk has {error.free / GIB:.3g} free; they are computed on "
        f"the fly: {header.upstream} processes {header.hours:.3g} h of audio again in every epoch, "
        "once for all learning rates; to store them: "
        f"store.limit_gb={error.total / GIB * 1.05:.3g}{advice}, or another --store"
    )


def _finished(file: Path) -> bool:
    return file.with_suffix(".index").exists()
