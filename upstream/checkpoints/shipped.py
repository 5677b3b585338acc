"""The pretrained model in this package; its file is used only if it has the released digest."""

import hashlib
from importlib import resources
from pathlib import Path

from mt4ssl_bench.errors import CheckpointError, UpstreamError

NAME = "mt4ssl"
FOLDER = Path(str(resources.files("mt4ssl_bench.upstream"))) / "shipped"


def shipped() -> Path:
    """Return the checkpoint file of the model that this package ships.

    Raises:
        UpstreamError: If this installation has none.
        CheckpointError: If it is damaged.
    """
    file = FOLDER / f"{NAME}.safetensors"
    digest = file.with_suffix(".sha256")
    try:
        found = sha256(file)
        expected = digest.read_text(encoding="utf-8").split()[0]
    except (OSError, IndexError) as error:
        raise UpstreamError(
            f"{NAME}: this installation has no pretrained model ({error}); expected {file.name} "
            f"and {digest.name}; install mt4ssl-bench again, or name a run folder"
        ) from None
    if found != expected:
        raise CheckpointError(
            f"{file}: damaged, its SHA-256 is {found[:12]}...; expected {expected[:12]}...; "
            "install mt4ssl-bench again"
        )
    return file


def located(name: str) -> Path:
    """Return the checkpoint `name`: the shipped one for "mt4ssl", unless there is such a path."""
    path = Path(name)
    return shipped() if name == NAME and not path.exists() else path


def write_digest(file: Path) -> None:
    """Write the digest of a checkpoint beside it, as the program sha256sum does."""
    file.with_suffix(".sha256").write_text(f"{sha256(file)}  {file.name}\n", encoding="utf-8")


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    return hashlib.sha256(file.read_bytes()).hexdigest()
