"""Links the sources into build/types as they lie in a wheel: type checkers cannot see the package mapping."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
TREE = ROOT / "build" / "types"

if __name__ == "__main__":
    package = TREE / "mt4ssl_bench"
    package.mkdir(parents=True, exist_ok=True)
    for old in package.iterdir():
        old.unlink()
    for source in (ROOT / "mt4ssl_bench").glob("*.py"):
        (package / source.name).symlink_to(source)
    for name in ("upstream", "downstream", "recipes"):
        (package / name).symlink_to(ROOT / name, target_is_directory=True)
    (TREE / "pyproject.toml").unlink(missing_ok=True)
    (TREE / "pyproject.toml").symlink_to(ROOT / "pyproject.toml")
