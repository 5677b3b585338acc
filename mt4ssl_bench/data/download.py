"""One file from the web: a download that is interrupted is resumed, a wrong checksum is an error.

A file has its name only when it is complete and its checksum is right.
"""

import errno
import hashlib
import http.client
import logging
import shutil
import ssl
import time
import urllib.error
import urllib.request
from contextlib import nullcontext
from pathlib import Path
from typing import IO

from mt4ssl_bench.console import progress
from mt4ssl_bench.errors import BenchError

LOGGER = logging.getLogger(__name__)
BLOCK = 1 << 20  # bytes read at once
MB = 1_000_000
TRIES = 5  # connections that transfer nothing before giving up
PAUSE = 1.0  # seconds before the second try; doubled each time
TIMEOUT = 60.0  # seconds without a byte that end a connection
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
INTERRUPTIONS = (
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
)


class DownloadError(BenchError):
    """A file that could not be downloaded; `resumable` if the same call continues it."""

    def __init__(self, message: str, *, resumable: bool = False) -> None:
        super().__init__(message)
        self.resumable = resumable


def download(url: str, target: Path, *, checksum: str = "", quiet: bool = False) -> None:
    """Download a file to `target`, beside which a part is kept until it is complete.

    Args:
        url: An http or https address.
        target: The file; its folder must exist.
        checksum: "md5:..." or "sha256:..." of the file; "" if none is known.
        quiet: Show no progress.

    Raises:
        DownloadError: If the network, the server or the disk fails, or the checksum differs.
    """
    if not url.startswith(("http://", "https://")):
        raise DownloadError(f"{url}: not an http or https address")
    part = target.with_name(f"{target.name}.part")
    tries, pause = 0, PAUSE
    while True:
        before = _size(part)
        try:
            if _receive(url, part, quiet=quiet):
                break
            reason = "the connection ended early"
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise DownloadError(f"{url}: HTTP {error.code} {error.reason}") from None
            reason = f"HTTP {error.code}"
        except INTERRUPTIONS as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        size = _size(part)
        tries, pause = (1, PAUSE) if size > before else (tries + 1, pause)
        if tries >= TRIES:
            raise DownloadError(
                f"{url}: interrupted after {size:,} bytes ({reason})", resumable=True
            )
        LOGGER.warning("%s: %s after %s bytes, trying again", target.name, reason, f"{size:,}")
        time.sleep(pause)
        pause *= 2
    _verify(url, part, checksum)
    part.replace(target)
    _tag(part).unlink(missing_ok=True)


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _tag(part: Path) -> Path:
    """Return where a part's version is kept, so that two versions of a file are never joined."""
    return part.with_name(f"{part.name}.version")


def _receive(url: str, part: Path, *, quiet: bool) -> bool:
    """Append the bytes that are missing to `part`, and return whether it is complete."""
    start = _size(part)
    headers = {"User-Agent": "mt4ssl-bench", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if _tag(part).exists():
            headers["If-Range"] = _tag(part).read_text(encoding="utf-8")
    try:
        # download() takes only http and https
        request = urllib.request.Request(url, headers=headers)  # noqa: S310
        response = urllib.request.urlopen(request, timeout=TIMEOUT)  # noqa: S310
    except (http.client.InvalidURL, ValueError) as error:
        raise DownloadError(
            f"{url}: not a URL ({error}); expected http://host:8000/folder, a space as %20"
        ) from None
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        if error.headers.get("Content-Range", "").rpartition("/")[2] == str(start):
            return True  # the part was complete already
        part.unlink()  # longer than the file: of something else
        return False
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            start = 0  # the whole file comes: it changed, or the server knows no ranges
        _store_tag(part, response.headers)
        length = response.headers["Content-Length"]
        total = start + int(length) if length else None
        _check_room(part, (total or start) - start)
        return _append(response, part, start, total, quiet=quiet)


def _append(response: IO[bytes], part: Path, start: int, total: int | None, *, quiet: bool) -> bool:
    label = f"{part.name.removesuffix('.part')} (MB)"
    bar = progress(label, (total or 0) // MB, start=start // MB)
    done = start
    try:
        with part.open("r+b" if start else "wb") as file, nullcontext() if quiet else bar as show:
            file.seek(start)
            file.truncate()
            while block := response.read(BLOCK):
                file.write(block)
                if show:
                    show((done + len(block)) // MB - done // MB, "")
                done += len(block)
    except OSError as error:  # also when the file is closed
        if error.errno in FULL:
            raise DownloadError(
                f"{part}: {error.strerror} after {done:,} of {total or 0:,} bytes; make room",
                resumable=True,
            ) from None
        raise
    return total is None or done == total


def _store_tag(part: Path, headers: http.client.HTTPMessage) -> None:
    tag = headers.get("ETag") or headers.get("Last-Modified") or ""
    if tag and not tag.startswith("W/"):  # a weak tag does not promise the same bytes
        _tag(part).write_text(tag, encoding="utf-8")
    else:
        _tag(part).unlink(missing_ok=True)


def _check_room(part: Path, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise DownloadError(f"{part}: {needed:,} bytes to come, {free:,} are free")


def _verify(url: str, part: Path, checksum: str) -> None:
    if not checksum:
        return
    kind, _, expected = checksum.partition(":")
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, kind).hexdigest()
    if digest != expected:
        part.unlink()
        raise DownloadError(
            f"{url}: expected {kind} {expected} as its publisher states, got {digest}; the file "
            "was removed; rerun the same command to download it again"
        )
