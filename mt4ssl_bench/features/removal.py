"""Removal of entries of a feature store, but for those that another process is writing."""

import shutil
from contextlib import ExitStack, suppress
from pathlib import Path

from mt4ssl_bench.features.shards import shard_folder
from mt4ssl_bench.files import holding

LOCKS = ".locks"  # one file per entry; a lock ends with its process, however that ends


def lock_of(root: Path, file: Path) -> Path:
    """Return the lock of an entry, which a process holds while it writes `file`."""
    return root / LOCKS / f"{file.parent.name}.{file.stem}"


def remove_unused(root: Path, file: Path) -> bool:
    """Remove an entry unless another process is writing it; its readers keep it until they end."""
    try:
        with ExitStack() as held:
            for lock in (lock_of(root, file), *shard_folder(file).glob("*.lock")):
                held.enter_context(holding(lock, patience=0))
            remove(file)
    except TimeoutError:
        return False
    return True


def remove(file: Path) -> None:
    """Remove the index first: values without one count for nothing."""
    for suffix in (".index", ".index.partial", ".bin"):
        file.with_suffix(suffix).unlink(missing_ok=True)
    shutil.rmtree(shard_folder(file), ignore_errors=True)
    with suppress(OSError):  # not empty
        file.parent.rmdir()
