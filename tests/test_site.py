"""The documentation site: it builds without a warning, and loads nothing from outside."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# what a browser loads by itself: scripts, styles, pictures, fonts
LOADED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?(?:https?:)?//[^\s\">]+"
    r"|<link\b(?![^>]*rel=\"?(?:canonical|prev|next))[^>]*\bhref=\"?(?:https?:)?//[^\s\">]+"
    r"|(?:url\(|@import\s)[\"']?(?:https?:)?//[^\s\")]+"
)
pytestmark = pytest.mark.long


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of a checkout, as `make docs` does."""
    pytest.importorskip("material")
    command = ["mkdocs", "build", "--strict", "--site-dir", site]  # --quiet would hide warnings
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    subprocess.run([sys.executable, root / "tests" / "types_tree.py"], check=True)
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_site_builds_without_a_warning_and_loads_nothing_from_outside(tmp_path: Path) -> None:
    run = build(ROOT, tmp_path)
    assert run.returncode == 0, run.stderr
    pages = [file for file in tmp_path.rglob("*") if file.suffix in {".html", ".css"}]
    assert len(pages) > 50
    for page in pages:
        assert not LOADED.findall(page.read_text(encoding="utf-8")), page


@pytest.mark.parametrize(
    ("text", "complaints"),
    [
        (
            "[a](nowhere.md) [b](install.md#nowhere) [c][mt4ssl_bench.nothing]",
            ["'nowhere.md'", "'#nowhere'", "'mt4ssl_bench.nothing'"],
        ),
        ("::: mt4ssl_bench.nobody", ["mt4ssl_bench.nobody"]),
    ],
)
def test_a_dead_link_or_anchor_or_an_unknown_name_fails(
    tmp_path: Path, text: str, complaints: list[str]
) -> None:
    root = tmp_path / "checkout"
    shutil.copytree(ROOT / "docs", root / "docs")
    shutil.copy(ROOT / "mkdocs.yml", root)
    (root / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "types_tree.py", root / "tests")
    for room in ("mt4ssl_bench", "upstream", "downstream", "recipes", "pyproject.toml"):
        (root / room).symlink_to(ROOT / room)
    page = root / "docs" / "index.md"
    page.write_text(f"{page.read_text(encoding='utf-8')}\n{text}\n", encoding="utf-8")
    run = build(root, tmp_path / "site")
    assert run.returncode != 0
    said = run.stdout + run.stderr
    assert [complaint for complaint in complaints if complaint not in said] == [], said


@pytest.mark.parametrize(
    "loaded",
    [
        '<link rel="stylesheet" href="https://fonts.googleapis.com/css">',
        '<script src="https://unpkg.com/x.js"></script>',
        "@import url(//fonts.gstatic.com/x)",
        '<img src="https://example.org/x.png">',
    ],
)
def test_what_a_page_would_load_from_outside_is_found(loaded: str) -> None:
    assert LOADED.search(loaded)
