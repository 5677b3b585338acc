"""Links the sources into build/types as they lie in a wheel.

Type checkers cannot see the package mapping of pyproject.toml.
"""

import shutil
from pathlib import Path

ROOT = Path(__file__).parent.parent
TREE = ROOT / "build" / "types"

if __name__ == "__main__":
    shutil.rmtree(TREE, ignore_errors=True)  # a folder of links: what they lead to stays
    package = TREE / "mt4ssl_bench"
    package.mkdir(parents=True)
    rooms = [path for path in (ROOT / "mt4ssl_bench").iterdir() if path.name != "__pycache__"]
    for path in [*rooms, *(ROOT / name for name in ("upstream", "downstream", "recipes"))]:
        (package / path.name).symlink_to(path, target_is_directory=path.is_dir())
    (TREE / "pyproject.toml").symlink_to(ROOT / "pyproject.toml")
