"""What an installed wheel holds."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.long
def test_the_wheel_holds_every_module_and_recipe_under_one_package(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a copy: building must not write into the checkout
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in tracked.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(tmp_path),
        str(source),
    ]
    subprocess.run(command, check=True, capture_output=True)
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    for folder in ("upstream", "downstream", "recipes"):
        for path in (ROOT / folder).glob("*.py"):
            assert f"mt4ssl_bench/{folder}/{path.name}" in names
    for recipe in (ROOT / "recipes").glob("*.yaml"):
        assert f"mt4ssl_bench/recipes/{recipe.name}" in names
    assert "mt4ssl_bench/demo_sentences.txt" in names
    top = {name.split("/")[0] for name in names}
    assert all(name == "mt4ssl_bench" or name.endswith(".dist-info") for name in top), top
