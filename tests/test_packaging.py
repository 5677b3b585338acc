"""What an installed wheel holds: every room, and nothing beside the package."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OUTSIDE = (
    "upstream",
    "downstream",
    "recipes",
)  # beside the package in a checkout, inside it in a wheel


def inside(path: Path) -> str:
    """The path in a wheel of a file or folder of the checkout."""
    relative = path.relative_to(ROOT)
    return relative.as_posix() if relative.parts[0] not in OUTSIDE else f"mt4ssl_bench/{relative}"


def test_the_list_of_packages_is_that_of_the_folders() -> None:
    folders = [
        path.parent
        for top in ("mt4ssl_bench", *OUTSIDE)
        for path in (ROOT / top).rglob("__init__.py")
    ]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = settings["tool"]["setuptools"]["packages"]
    assert packages == sorted(inside(folder).replace("/", ".") for folder in folders)


@pytest.mark.long
def test_a_wheel_holds_every_file_and_each_module_is_imported_from_it(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a copy: building must not write into the checkout
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = [ROOT / name for name in tracked.stdout.splitlines() if (ROOT / name).is_file()]
    for file in files:
        (source / file.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        (source / file.relative_to(ROOT)).write_bytes(file.read_bytes())
    command = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path)]
    subprocess.run([sys.executable, *command, str(source)], check=True, capture_output=True)
    wheel = zipfile.ZipFile(next(tmp_path.glob("*.whl")))
    ours = {inside(f) for f in files if f.relative_to(ROOT).parts[0] in {"mt4ssl_bench", *OUTSIDE}}
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == ours
    wheel.extractall(tmp_path / "site")
    modules = [name.removesuffix(".py").replace("/", ".") for name in ours if name.endswith(".py")]
    wanted = sorted(m.removesuffix(".__init__") for m in modules if not m.endswith("__main__"))
    script = f"""
import importlib, sys
sys.path.insert(0, {str(tmp_path / "site")!r})
for name in {wanted!r}:
    module = importlib.import_module(name)
    assert module.__file__.startswith({str(tmp_path / "site")!r}), module.__file__
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
