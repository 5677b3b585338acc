"""Files by path or URL: http downloads are resumed, other protocols go through smart_open."""

import logging
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import IO, cast

from mt4ssl_bench.data.download import DownloadError, download
from mt4ssl_bench.errors import CorpusError, first_line

LOGGER = logging.getLogger(__name__)
TRIES, PAUSE = 3, 1.0  # of other protocols: attempts, and seconds before the second


def fetch(where: str, size: int | None = None) -> IO[bytes]:
    """Return the file at a path or URL, opened.

    A URL's is copied to a temporary file that vanishes when closed.

    Raises CorpusError when it cannot be had, or has not `size` bytes.
    """
    file: IO[bytes] = _download(where) if is_url(where) else Path(where).open("rb")  # noqa: SIM115
    found = file.seek(0, os.SEEK_END)
    file.seek(0)
    if size is not None and found != size:
        file.close()
        raise CorpusError(
            f"{where}: cut short or changed: {found} bytes, not {size}; copy it or make the shards "
            "again"
        )
    return file


def _download(url: str) -> IO[bytes]:
    if url.startswith(("http://", "https://")):
        # an open file outlives its folder
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            path = Path(folder, "file")
            try:
                download(url, path, quiet=True)
            except DownloadError as error:
                raise CorpusError(str(error)) from None
            return path.open("rb")
    for attempt in range(TRIES):
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        try:
            with _open_other(url) as source:
                shutil.copyfileobj(source, file)
        except OSError as error:
            file.close()
            if attempt + 1 == TRIES:
                raise CorpusError(f"{url}: {error}, {TRIES} times") from None
            LOGGER.warning("%s: %s; trying again", url, error)
            time.sleep(PAUSE * 2**attempt)
        else:
            return file
    raise AssertionError


def is_url(where: str) -> bool:
    """Return whether `where` is a URL and no path."""
    return "://" in where


def _open_other(url: str) -> IO[bytes]:
    """Return a URL of another protocol (s3, gs) opened for reading, through lhotse.

    Raises:
        CorpusError: If nothing here opens it.
        OSError: If it cannot be read.
    """
    from lhotse.serialization import open_best

    try:
        return cast("IO[bytes]", open_best(url, "rb"))
    except (ImportError, NotImplementedError, ValueError) as error:
        raise CorpusError(
            f"{url}: {first_line(error)}; all but http(s) needs smart_open: pip install "
            "'smart_open[s3]'"
        ) from None
