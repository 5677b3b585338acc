"""Opening a path or a URL: downloads with retries, other protocols through smart_open."""

import http.client
import logging
import os
import shutil
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import IO, Any

from mt4ssl_bench.errors import CorpusError, first_line

LOGGER = logging.getLogger(__name__)
TRIES, PAUSE, TIMEOUT = (
    3,
    1.0,
    60.0,
)  # of a download: attempts, and seconds between and without a byte


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
    for attempt in range(TRIES):
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        try:
            with open_any(url) as source:
                shutil.copyfileobj(source, file)
        except (OSError, http.client.HTTPException) as error:
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


def open_any(where: str) -> Any:  # noqa: ANN401 - a file that can be read and closed
    """Return a path or URL opened for reading bytes.

    What is not http or https goes through lhotse (s3://, gs://).

    Raises CorpusError for a URL that is malformed or that nothing here opens, OSError when it
    cannot be had.
    """
    if where.startswith(("http://", "https://")):
        try:
            # the schemes are those above
            return urllib.request.urlopen(where, timeout=TIMEOUT)  # noqa: S310
        except (http.client.InvalidURL, ValueError) as error:
            raise CorpusError(
                f"{where}: not a URL ({error}); expected http://host:8000/folder, a space as %20"
            ) from None
    if is_url(where):
        from lhotse.serialization import open_best

        try:
            return open_best(where, "rb")
        except (ImportError, NotImplementedError, ValueError) as error:
            raise CorpusError(
                f"{where}: {first_line(error)}; all but http(s) needs smart_open: pip install "
                "'smart_open[s3]'"
            ) from None
    return Path(where).open("rb")
