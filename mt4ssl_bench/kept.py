"""Audio that no file holds as it is needed, kept in files of a corpus's own."""

import hashlib
import re
from pathlib import Path

from mt4ssl_bench.files import written

MAGIC = {
    b"fLaC": "flac",
    b"RIFF": "wav",
    b"OggS": "ogg",
    b"ID3": "mp3",
    b"\xff\xfb": "mp3",
    b"FORM": "aiff",
}


def keep_audio(folder: Path, name: str, content: bytes) -> Path:
    """Write audio into a folder, completely or not at all, and return its file."""
    suffix = next((suffix for magic, suffix in MAGIC.items() if content.startswith(magic)), "wav")
    # names may be alike once they are a file's: the digest keeps one's audio from taking the place of another's
    digest = hashlib.blake2b(content, digest_size=8).hexdigest()
    path = (folder / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)[:80]}-{digest}.{suffix}").absolute()
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with written(path) as file:
            file.write(content)
    return path
