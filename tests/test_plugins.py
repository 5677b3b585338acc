"""Another package adds a task, a target, a corpus, a metric, an encoder and a recipe: one file
each, and the whole journey works with them.
"""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from builders import FIXTURES, RATE, read_log, run

ROOT = Path(__file__).parent.parent
PACKAGE = FIXTURES / "toy_package"
FILES = ("task", "target", "source", "metric", "encoder")


def write_dialects(folder: Path) -> Path:
    """Write 48 words, low in one dialect and high in the other."""
    rng = np.random.default_rng(0)
    for dialect, ends in {"north": (300, 900), "south": (3000, 1500)}.items():
        (folder / dialect).mkdir(parents=True)
        for speaker in "abcd":
            for number in range(6):
                pitch = np.linspace(*ends, RATE // 2) * rng.uniform(0.9, 1.1)
                samples = 0.2 * np.sin(2 * np.pi * np.cumsum(pitch) / RATE)
                samples += 0.01 * rng.standard_normal(len(samples))
                name = f"{dialect[0]}{speaker}-{number}.wav"
                soundfile.write(folder / dialect / name, samples, RATE)
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> str:
    source = tmp_path_factory.mktemp("package") / "toy"
    subprocess.run(["cp", "-r", str(PACKAGE), str(source)], check=True)
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--target", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return str(folder)


@pytest.mark.long
def test_the_whole_journey_works_with_what_another_package_adds(site: str, tmp_path: Path) -> None:
    def do(*arguments: object) -> str:
        done = run(*arguments, PYTHONPATH=site, OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    audio = write_dialects(tmp_path / "audio")
    corpus, out, model = tmp_path / "corpus", tmp_path / "results", tmp_path / "runs" / "first"

    listed = do("list")
    assert "dialect_tiny" in listed
    assert "bands:40" in listed
    assert "codes" in listed
    assert "UAR, %, higher is better" in listed
    assert "words in two dialects" in do("list", "corpora")
    assert "--held-out" in do("prepare", "dialects", "--help")

    do("prepare", "dialects", "--from", audio, "--out", corpus)
    info = json.loads((corpus / "corpus.json").read_text())
    assert {name: split["utterances"] for name, split in info["splits"].items()}.items() >= {
        "train": 32, "valid": 8, "test": 8
    }.items()  # fmt: skip
    assert "dialect" in info["fields"]
    do("check", corpus)

    do(
        "pretrain",
        FIXTURES / "toy.yaml",
        f"data.corpus={corpus}",
        "targets.codes.weight=1",
        "data.min_seconds=0.3",
        "--out",
        model,
    )
    log = read_log(model)
    assert all(np.isfinite(line["codes"]) for line in log if "codes" in line)
    assert any("codes" in line and "online" in line and "offline" in line for line in log)

    do("evaluate", "bands:40", model, "--task", "dialect", "--corpus", corpus, "--out", out)
    records = [json.loads(file.read_text()) for file in out.glob("dialect-*.json")]
    scores = {record["upstream"]["name"]: record["metrics"]["uar"] for record in records}
    assert scores.keys() == {"bands:40", "first"}
    assert scores["bands:40"]["value"] > 80  # 50 by chance
    assert scores["bands:40"]["low"] <= scores["bands:40"]["value"] <= scores["bands:40"]["high"]
    assert {record["main_metric"] for record in records} == {"uar"}

    board = do("leaderboard", out, "--format", "csv")
    rows = list(csv.DictReader(line for line in board.splitlines() if "," in line))
    assert [row["title"] for row in rows if row["main"] == "True"] == ["UAR", "UAR"]
    assert "UAR" in do("compare", "bands:40", "first", "--task", "dialect", "--results", out)
    assert "uar" in do("show", *out.glob("dialect-bands*.json")).lower()

    # the leaderboard needs the records only, and the run its encoder
    alone = run("leaderboard", out, "--format", "markdown")
    assert "UAR" in alone.stdout
    assert (
        run("evaluate", model, "--task", "speaker", "--corpus", corpus, "--dry-run").returncode == 0
    )


@pytest.mark.parametrize("name", FILES)
def test_the_docs_show_the_files_of_that_package(name: str) -> None:
    pages = {"source": "corpus"}
    page = ROOT / "docs" / "contributing" / f"{pages.get(name, name)}.md"
    code = (PACKAGE / "toy_bench" / f"{name}.py").read_text(encoding="utf-8")
    assert code in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), flags=re.DOTALL)
    assert code.count("\n") <= 40


def test_inside_the_repository_each_addition_is_one_file_and_a_task_two(tmp_path: Path) -> None:
    for folder in ("upstream", "downstream", "recipes"):
        shutil.copytree(ROOT / folder, tmp_path / "mt4ssl_bench" / folder)
    shutil.copytree(ROOT / "mt4ssl_bench", tmp_path / "mt4ssl_bench", dirs_exist_ok=True)
    copy, added = tmp_path / "mt4ssl_bench", PACKAGE / "toy_bench"
    before = contents(copy)

    shutil.copy(added / "recipes" / "dialect.yaml", copy / "recipes" / "tasks")
    for source, place, ending in (
        ("task", "downstream/tasks/dialect.py", "\nTASK = Dialect\n"),
        ("source", "corpora/sources/dialects.py", ""),
        ("metric", "results/metrics/average_recall.py", ""),
        ("encoder", "encoders/kinds/bands.py", "\nKIND = BANDS\n"),
    ):
        (copy / place).write_text((added / f"{source}.py").read_text() + ending)
    targets = copy / "upstream" / "targets.py"
    own = (added / "target.py").read_text().replace("from mt4ssl_bench.upstream.targets", "#")
    line = '"codes": f"{__name__}:RandomCodes",'
    text, registry = targets.read_text().rsplit("TARGETS: Registry", 1)
    registry = registry.replace("\n    {\n", f"\n    {{\n        {line}\n", 1)
    assert line in registry
    targets.write_text(f"{text}\n{own}\n\nTARGETS: Registry{registry}")

    changed = {name for name, digest in contents(copy).items() if before.get(name) != digest}
    assert changed == {
        "recipes/tasks/dialect.yaml",
        "downstream/tasks/dialect.py",
        "corpora/sources/dialects.py",
        "results/metrics/average_recall.py",
        "encoders/kinds/bands.py",
        "upstream/targets.py",
    }
    listed = run("list", PYTHONPATH=str(tmp_path), PYTHONSAFEPATH="1").stdout
    for name in ("dialect_tiny", "words in two dialects", "UAR, %", "bands:40", "codes"):
        assert name in listed


def contents(folder: Path) -> dict[str, int]:
    """The content of every file below a folder."""
    return {
        file.relative_to(folder).as_posix(): hash(file.read_bytes())
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
