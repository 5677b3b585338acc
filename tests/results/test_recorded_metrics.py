"""A metric of another package: scored, stored, ranked, compared and shown, also once it is gone."""

import json
import re
import shutil
from pathlib import Path

import pytest

from builders import HERE, python, run

PLUGIN = '''
from mt4ssl_bench.results.metrics import Metric

def mean_gain(answers, weights=None):
    """The mean over queries of the best gain: no ratio of sums."""
    best = {}
    for number, answer in enumerate(answers):
        weight = 1.0 if weights is None else weights[number]
        query, gain = answer["labels"]["query"], float(answer["hypothesis"])
        best[query] = (max(gain, best.get(query, (gain, 0))[0]), weight)
    total = sum(weight for _, weight in best.values())
    return sum(gain * weight for gain, weight in best.values()) / total if total else float("nan")

def queries(answers):
    return [answer["labels"]["query"] for answer in answers]

GAIN = Metric(
    name="gain", title="Gain", unit="dB", higher_is_better=True, order=15, value=mean_gain,
    units=queries, over="queries",
)
'''
MAKE = """
import sys
from dataclasses import replace
from pathlib import Path
from builders import record
from mt4ssl_bench import results
from mt4ssl_bench.results.metrics import METRICS

gain, folder = METRICS.get("gain"), Path(sys.argv[1])
for model, more in (("low", 0.0), ("high", 2.0), ("equal", 2.0)):
    answers = [
        {"id": f"q{query}-{take}", "speaker": None, "reference": "", "labels": {"query": f"q{query}"},
         "hypothesis": str(round(query % 7 + more * (query % 4) + (query * take) % 3 / 10, 3))}
        for query in range(20) for take in range(3)
    ]
    enhance = replace(
        record(model), task="enhance", recipe_name="enhance", main_metric="gain",
        metrics={"gain": gain.score(answers)},
    )
    results.save(enhance, answers, folder)
    results.save(record(model, "phoneme", 20), [], folder)
    results.save(record(model, "asr", 20), [], folder)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip installs of a package with one metric."""
    site = tmp_path_factory.mktemp("site")
    info = site / "plug_gain-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug-gain\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mt4ssl_bench.metrics]\ngain = plug_gain:GAIN\n")
    (site / "plug_gain.py").write_text(PLUGIN)
    return site


@pytest.fixture(scope="module")
def folder(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    python(MAKE, folder, PYTHONPATH=f"{HERE}:{site}")
    return folder


def cells(table: str, model: str) -> list[str]:
    (line,) = [line for line in table.splitlines() if f"| {model} |" in line]
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.long
def test_a_metric_of_another_package_goes_the_whole_way(site: Path, folder: Path) -> None:
    path = next(folder.glob("enhance-low-*.json"))
    score = json.loads(path.read_text())["metrics"]["gain"]
    assert (score["title"], score["unit"], score["order"]) == ("Gain", "dB", 15)
    assert (score["over"], score["higher_is_better"], score["errors"]) == ("queries", True, None)
    assert score["low"] < score["value"] < score["high"]

    board = run("leaderboard", folder, "--format", "markdown", PYTHONPATH=str(site))
    assert (board.returncode, board.stderr) == (0, "")
    headings = next(line for line in board.stdout.splitlines() if "upstream" in line)
    assert headings.index("PER") < headings.index("Gain dB ↑") < headings.index("WER")
    assert [cells(board.stdout, model)[0] for model in ("high", "equal", "low")] == ["1", "1", "3"]
    assert f"{score['value']:.2f} [{score['low']:.2f}, {score['high']:.2f}]" in board.stdout
    assert "95 % interval over utterances (PER, WER, CER), over queries (Gain)" in board.stdout

    found = run("compare", "high", "low", "--task", "enhance", "--results", folder,
                PYTHONPATH=str(site))  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert re.search(r"difference +\+3\.00 \[", found.stdout)
    assert "high minus low, in dB" in found.stdout
    assert "high is better (bootstrap over 20 queries)" in found.stdout
    same = run("compare", "high", "equal", "--task", "enhance", "--results", folder,
               PYTHONPATH=str(site))  # fmt: skip
    assert "no difference can be told" in same.stdout

    shown = run("show", path, PYTHONPATH=str(site))
    assert shown.returncode == 0, shown.stderr
    for part in ("Gain dB ↑", f"{score['value']:.2f}", "95 % over queries", "compares no tokens"):
        assert part in shown.stdout


@pytest.mark.long
def test_without_its_package_a_record_is_still_shown_and_ranked(folder: Path) -> None:
    board = run("leaderboard", folder, "--format", "markdown")
    assert board.returncode == 0
    (warning,) = board.stderr.splitlines()
    assert "metric 'gain' is not installed; install the package that defines it" in warning
    assert "placed by value" in warning
    assert "Gain dB ↑" in board.stdout
    assert "**" in cells(board.stdout, "high")[4]
    assert "**" not in cells(board.stdout, "low")[4]  # the right direction
    assert [cells(board.stdout, model)[0] for model in ("high", "equal", "low")] == ["1", "1", "3"]

    shown = run("show", next(folder.glob("enhance-low-*.json")))
    assert shown.returncode == 0
    assert "Gain dB ↑" in shown.stdout
    assert "no confusions: metric 'gain' is not installed" in shown.stdout

    refused = run("compare", "high", "low", "--task", "enhance", "--results", folder)
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert "gain cannot be compared: metric 'gain' is not installed; install the package" in line


def test_a_plug_in_that_cannot_be_imported_costs_one_line(
    site: Path, folder: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(site, tmp_path / "broken")
    (broken / "plug_gain.py").write_text("import no_such_thing\n")
    board = run("leaderboard", folder, PYTHONPATH=str(broken))
    assert board.returncode == 0
    (warning,) = board.stderr.splitlines()
    assert "metric 'gain' of plug-gain 1.0: plug_gain:GAIN cannot be imported" in warning


def test_answers_that_the_metric_cannot_read_cost_one_line(
    site: Path, folder: Path, tmp_path: Path
) -> None:
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    for path in damaged.glob("enhance-*.hyp.jsonl"):
        path.write_text(path.read_text().replace('"query"', '"other"'))
    found = run("compare", "high", "low", "--task", "enhance", "--results", damaged,
                PYTHONPATH=str(site))  # fmt: skip
    assert found.returncode == 2
    assert "metric 'gain' fails (KeyError: 'query')" in found.stderr
    board = run("leaderboard", damaged, PYTHONPATH=str(site))
    assert board.returncode == 0
    assert "metric 'gain' fails (KeyError: 'query'); its rows are placed by value" in board.stderr
