"""Archives of published corpora: downloaded, unpacked and removed, each once."""

import logging
import tarfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mt4ssl_bench.console import progress
from mt4ssl_bench.data.download import BLOCK, MB, DownloadError, download
from mt4ssl_bench.errors import CorpusError

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Archive:
    """A file to download.

    Attributes:
        url: Its address.
        checksum: Its publisher's, "md5:..." or "sha256:...", "" for none.
        folder: Below the corpus's folder, for an archive that has no folder of its own.
    """

    url: str
    checksum: str = ""
    folder: str = ""

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rsplit("/", 1)[-1]


def fetch(archives: Iterable[Archive], folder: Path, mirror: str = "") -> None:
    """Download and unpack archives into `folder`; one that was unpacked there is skipped.

    Args:
        archives: The archives.
        folder: Folder to unpack into, created if needed.
        mirror: Address that holds the same files, instead of the publisher's.

    Raises:
        CorpusError: If the network, the disk or an archive fails; the same call continues.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for archive in archives:
        done = folder / f".{archive.name}.unpacked"
        if done.exists():
            LOGGER.info("%s: already unpacked in %s", archive.name, folder)
            continue
        file = folder / archive.name
        if not file.exists():
            url = f"{mirror.rstrip('/')}/{archive.name}" if mirror else archive.url
            try:
                download(url, file, checksum=archive.checksum)
            except DownloadError as error:
                advice = (
                    "rerun the same command to resume"
                    if error.resumable
                    else "--mirror names another address, --from a copy or another folder"
                )
                raise CorpusError(f"{error}; {advice}") from None
        unpack(file, folder / archive.folder)
        done.touch()
        file.unlink()


def unpack(file: Path, folder: Path) -> None:
    """Unpack a tar archive.

    Raises:
        CorpusError: If it is damaged, cut short or reaches outside `folder`.
    """
    shown = 0
    try:
        with (
            file.open("rb") as raw,
            tarfile.open(fileobj=raw) as tar,
            progress(f"unpacking {file.name} (MB)", file.stat().st_size // MB) as advance,
        ):
            for member in tar:
                # the filter rejects links, paths and modes that reach outside
                tar.extract(member, folder, filter="data")
                advance(raw.tell() // MB - shown, "")
                shown = raw.tell() // MB
            # to its end, where gzip's own checksum stands
            while tar.fileobj and tar.fileobj.read(BLOCK):
                pass
    except tarfile.FilterError as error:
        raise CorpusError(f"{file}: rejected: {error}") from None
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise CorpusError(
            f"{file}: damaged or incomplete archive ({error}); remove it and download it again"
        ) from None
    except OSError as error:
        if error.errno is None:  # gzip's own errors carry no number
            raise CorpusError(
                f"{file}: damaged archive ({error}); remove it and download it again"
            ) from None
        raise CorpusError(
            f"{folder}: {error.strerror} while unpacking {file.name}; make room, then rerun the "
            "same command"
        ) from None
