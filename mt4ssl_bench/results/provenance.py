"""Package versions and git revision for records; imports nothing heavy."""

import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TypedDict

import mt4ssl_bench

PACKAGES = ("torch", "torchaudio", "lhotse", "jiwer", "numpy", "espnet-s3prl", "s3prl")


class Environment(TypedDict):
    """Package versions, and the git revision of the package's checkout (None outside one)."""

    versions: dict[str, str]
    git: str | None


def environment() -> Environment:
    """Return the versions and the revision of this process."""
    versions = {"python": platform.python_version(), "mt4ssl_bench": mt4ssl_bench.__version__}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return Environment(versions=versions, git=_revision(Path(mt4ssl_bench.__file__).parents[1]))


def _revision(root: Path) -> str | None:
    """Return the commit of `root`, with "-dirty" if files differ; None unless `root` is a checkout.

    A wheel in a virtual environment inside somebody's repository does not report that repository.
    """
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None
    describe = ("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    command = [git, "-C", str(root), *describe]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
