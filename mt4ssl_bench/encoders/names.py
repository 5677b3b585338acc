"""Names of upstreams on the command line, and what tells them from keys and from other paths."""

import logging
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

LOGGER = logging.getLogger(__name__)
KEY = re.compile(r"[A-Za-z_][\w.]*=")  # optim.lr=1e-3; no path with a slash, no prefix with a colon


def split_keys(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the names and the key=value overrides in `arguments`; an existing path is a name."""
    names: list[str] = []
    keys: list[str] = []
    for argument in arguments:
        is_key = KEY.match(argument) is not None
        file = argument.rpartition(".py:")[0] + ".py"  # of path/to/file.py:Class
        if is_key and (Path(argument).exists() or Path(file).is_file()):
            LOGGER.info("%s: taken as the path that exists here, not as a key", argument)
            is_key = False
        (keys if is_key else names).append(argument)
    return names, keys


def is_run(path: Path) -> bool:
    """Return whether a path is a checkpoint file, or a folder with a checkpoint.pt."""
    if path.is_file():
        return path.suffix == ".safetensors" or zipfile.is_zipfile(path)
    return (path / "checkpoint.pt").is_file()
