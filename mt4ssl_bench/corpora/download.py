"""Archives from the web: a file has its name only when it is whole and its checksum is right.

Repeating continues.
"""

import errno
import hashlib
import http.client
import logging
import shutil
import ssl
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mt4ssl_bench.console import progress
from mt4ssl_bench.errors import CorpusError

LOGGER = logging.getLogger(__name__)
BLOCK = 1 << 20  # bytes read at once
TRIES = 5  # connections without a byte of gain before giving up
PAUSE = 1.0  # seconds before the second try; doubled each time
TIMEOUT = 60.0  # seconds of silence that end a connection


@dataclass(frozen=True)
class Archive:
    """A file to download: its address, and the checksum its publisher states ("md5:..."; "" where
    there is none).
    """

    url: str
    checksum: str = ""

    @property
    def name(self) -> str:
        """Return the file's name."""
        return self.url.rsplit("/", 1)[-1]


def fetch(archives: Iterable[Archive], folder: Path, *, mirror: str = "") -> None:
    """Download and unpack archives into `folder`.

    Each is removed once it is unpacked, and never fetched again.

    Args:
        mirror: an address that holds the same files, instead of the publisher's.

    Raises CorpusError for what the network, the disk or the archive does; the same call continues.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for archive in archives:
        done = folder / f".{archive.name}.unpacked"
        if done.exists():
            LOGGER.info("%s: already unpacked in %s", archive.name, folder)
            continue
        url = f"{mirror.rstrip('/')}/{archive.name}" if mirror else archive.url
        file = download(Archive(url, archive.checksum), folder)
        unpack(file, folder)
        done.touch()
        file.unlink()


def download(archive: Archive, folder: Path) -> Path:
    """Download one file, continuing a part that is there.

    Returns its path once its checksum was right.
    """
    if not archive.url.startswith(("http://", "https://")):
        raise CorpusError(f"{archive.url}: not an http or https address")
    target, part = folder / archive.name, folder / f"{archive.name}.part"
    if target.exists():
        return target
    tries, pause = 0, PAUSE
    while True:
        before = _size(part)
        try:
            if _receive(archive.url, part):
                break
            reason = "the connection ended early"
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise CorpusError(
                    f"{archive.url}: HTTP {error.code} {error.reason}; --mirror names another "
                    "address, --from a copy"
                ) from None
            reason = f"HTTP {error.code}"
        except (
            urllib.error.URLError,
            http.client.HTTPException,
            ConnectionError,
            TimeoutError,
            ssl.SSLError,
        ) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        if _size(part) > before:
            tries, pause = 0, PAUSE
        tries += 1
        if tries >= TRIES:
            raise CorpusError(
                f"{archive.url}: interrupted after {_size(part):,} bytes ({reason}); the same "
                "command continues"
            )
        LOGGER.warning(
            "%s: %s after %s bytes, trying again", archive.name, reason, f"{_size(part):,}"
        )
        time.sleep(pause)
        pause *= 2
    _verify(part, archive)
    part.replace(target)
    _tag(part).unlink(missing_ok=True)
    return target


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _tag(part: Path) -> Path:
    """Return where a part's version is kept, so that two versions of a file are never joined."""
    return part.with_name(f"{part.name}.version")


def _receive(url: str, part: Path) -> bool:
    """Append what the server still has to `part`; returns whether it is whole."""
    start = _size(part)
    headers = {"User-Agent": "mt4ssl-bench", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if _tag(part).exists():
            headers["If-Range"] = _tag(part).read_text(encoding="utf-8")
    # download() takes http and https alone
    request = urllib.request.Request(url, headers=headers)  # noqa: S310
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        if error.headers.get("Content-Range", "").rpartition("/")[2] == str(start):
            return True  # the part was whole already
        part.unlink()  # longer than the file: of something else
        return False
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            start = 0  # the whole file comes: it changed, or the server knows no ranges
        version = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        _store(_tag(part), version)
        total = (
            start + int(response.headers["Content-Length"])
            if response.headers["Content-Length"]
            else None
        )
        _check_room(part, (total or start) - start)
        return _append(response, part, start, total)


# urllib types it so
def _append(response: Any, part: Path, start: int, total: int | None) -> bool:  # noqa: ANN401
    name = part.name.removesuffix(".part")
    try:
        bar = progress(f"{name} (MB)", _mb(total or 0), start=_mb(start))
        with part.open("r+b" if start else "wb") as file, bar as advance:
            file.seek(start)
            file.truncate()
            while block := response.read(BLOCK):
                shown = _mb(start)
                file.write(block)
                start += len(block)
                advance(_mb(start) - shown, "")
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise CorpusError(
                f"{part}: {error.strerror} after {start:,} of {total or 0:,} bytes; make room, and "
                "the same command continues"
            ) from None
        raise
    return total is None or start == total


def _store(file: Path, text: str) -> None:
    if text and not text.startswith("W/"):  # a weak tag does not promise the same bytes
        file.write_text(text, encoding="utf-8")
    else:
        file.unlink(missing_ok=True)


def _check_room(part: Path, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise CorpusError(
            f"{part}: {needed:,} bytes to come, {free:,} are free; --from names another folder"
        )


def _mb(count: int) -> int:
    return count // 1_000_000


def _verify(part: Path, archive: Archive) -> None:
    if not archive.checksum:
        return
    kind, _, stated = archive.checksum.partition(":")
    with part.open("rb") as file:
        found = hashlib.file_digest(file, kind).hexdigest()
    if found != stated:
        part.unlink()
        raise CorpusError(
            f"{archive.url}: {kind} {found}, its publisher states {stated}; the file was removed, "
            "the same command downloads it again"
        )


def unpack(file: Path, folder: Path) -> None:
    """Unpack a tar archive.

    Raises CorpusError when it is damaged, cut short or reaches outside `folder`.
    """
    shown = 0
    try:
        with (
            file.open("rb") as raw,
            tarfile.open(fileobj=raw) as tar,
            progress(f"unpacking {file.name} (MB)", _mb(_size(file))) as advance,
        ):
            for member in tar:
                tar.extract(
                    member, folder, filter="data"
                )  # no links, paths or modes that reach outside
                advance(_mb(raw.tell()) - shown, "")
                shown = _mb(raw.tell())
            while tar.fileobj and tar.fileobj.read(
                BLOCK
            ):  # to its end, where gzip's own checksum stands
                pass
    except tarfile.FilterError as error:
        raise CorpusError(f"{file}: refused: {error}") from None
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise CorpusError(
            f"{file}: damaged or half an archive ({error}); remove it and download it again"
        ) from None
    except OSError as error:
        if error.errno is None:  # gzip's own complaints carry no number
            raise CorpusError(
                f"{file}: damaged archive ({error}); remove it and download it again"
            ) from None
        raise CorpusError(
            f"{folder}: {error.strerror} while unpacking {file.name}; make room, then repeat"
        ) from None
