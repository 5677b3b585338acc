"""What numbers are made with: package versions and the git revision; imports nothing heavy."""

import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TypedDict

import mt4ssl_bench

PACKAGES = ("torch", "torchaudio", "lhotse", "jiwer", "numpy", "espnet-s3prl", "s3prl")


class Environment(TypedDict):
    """Package versions, and the git revision of the checkout the package runs from (None outside
    one).
    """

    versions: dict[str, str]
    git: str | None


def environment() -> Environment:
    """Return what the numbers were made with, for `versions` and `git`; imports nothing heavy."""
    versions = {"python": platform.python_version(), "mt4ssl_bench": mt4ssl_bench.__version__}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return Environment(versions=versions, git=_revision(Path(mt4ssl_bench.__file__).parents[1]))


def _revision(root: Path) -> str | None:
    """The commit of `root`, "-dirty" where files differ from it; None unless `root` itself is a
    checkout.

    A wheel in a virtual environment that lies inside someone's repository must not report that
    repository.
    """
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None
    command = [
        git,
        "-C",
        str(root),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
