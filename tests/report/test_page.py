"""The page of a report: its numbers are the records', texts are escaped, nothing loads."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from builders import record
from mt4ssl_bench.report import write_report
from mt4ssl_bench.results import record_files
from mt4ssl_bench.results.answers import Answer
from mt4ssl_bench.results.metrics import METRICS
from mt4ssl_bench.results.record import Result

EVIL = "<script>alert('x')</script> \"q\" a/b $a$ 😀 \x1b[31m"


class Page(HTMLParser):
    """The tables of a page as rows of (text, exact value), its texts, tags and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[tuple[str, float | None]]]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._cell: tuple[str, float | None] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            exact = dict(attrs).get("data-v")
            self._cell = "", None if exact is None else float(exact)

    def handle_endtag(self, tag: str) -> None:
        if tag in {"td", "th"} and self._cell:
            self.tables[-1][-1].append(self._cell)
            self._cell = None

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._cell:
            self._cell = self._cell[0] + data, self._cell[1]

    def table(self, *headings: str) -> dict[str, list[float | str]]:
        """The rows of all tables with these headings, by their first cells; numbers as exact."""
        found: dict[str, list[float | str]] = {}
        for heading, *rows in self.tables:
            if {text for text, _ in heading} >= set(headings):
                found |= {row[0][0]: [number(cell) for cell in row[1:]] for row in rows}
        assert found, headings
        return found


def number(cell: tuple[str, float | None]) -> float | str:
    text, exact = cell
    if exact is not None:
        return exact
    try:
        return float(text)
    except ValueError:
        return text


def spoken(errors: int) -> list[Answer]:
    """Answers to 20 utterances, with one error in each of the first `errors`."""
    answers: list[Answer] = [
        {"id": f"u{n:02}", "speaker": None, "reference": "a b c d", "hypothesis": "a b c d"}
        for n in range(20)
    ]
    for answer in answers:
        wrong = int(answer["id"][1:]) < errors
        answer["hypothesis"] = "a x d" if wrong else "a b c d"
        answer |= {"substitutions": wrong, "deletions": wrong, "insertions": 0, "tokens": 4}
        answer |= {key: int(answer[key]) for key in ("substitutions", "deletions")}
    return answers


def write(folder: Path, model: str, errors: int, **changes: object) -> Result:
    """Write a record of phoneme recognition with its answers."""
    answers = spoken(errors)
    score = METRICS.get("per").score(answers)
    shared = {"layer_norms": [3.0, 0.7], **changes}
    made = replace(record(model), metrics={"per": score}, **shared)
    record_files.save(made, answers, folder)
    return made


def report(*paths: Path, out: Path) -> Page:
    write_report(paths, out)
    return Page(out.read_text(encoding="utf-8"))


def test_every_number_of_a_record_is_in_the_report(tmp_path: Path) -> None:
    made = [write(tmp_path / "r", f"m{errors}", errors) for errors in (1, 5, 17)]
    page = report(tmp_path / "r", out=tmp_path / "report.html")
    scores = page.table("model", "value", "low", "high", "interval by")
    board = page.table("upstream", "rank")
    sweep = [row for table in page.tables if table[0][1][0] == "learning rate" for row in table[1:]]
    layers = [row for table in page.tables if table[0][-1][0].startswith("share") for row in table]
    for each in made:
        name, score = each.upstream["name"], each.main
        assert scores[name][:3] == [score.value, score.low, score.high]
        assert board[name][1:] == [each.upstream["parameters"], score.value]
        trials = [row for row in sweep if row[0][0] == name]
        assert [[number(cell) for cell in row[1:3]] for row in trials] == [
            [trial["lr"], trial["seed"]] for trial in sorted(each.sweep, key=lambda t: t["lr"])
        ]
        assert [number(row[4]) for row in trials] == [43.1, "diverged"]
        weights = [[number(cell) for cell in row[1:4]] for row in layers if row[0][0] == name]
        assert weights == [[0, 0.25, 3.0], [1, 0.75, 0.7]]
    assert "3 records and 0 pretraining runs of 3 models" in page.text


def test_differences_are_those_of_compare(tmp_path: Path) -> None:
    from mt4ssl_bench.results.compare import compare

    for errors in (1, 5, 17):
        write(tmp_path / "r", f"m{errors}", errors)
    page = report(tmp_path / "r", out=tmp_path / "report.html")
    shown = page.table("model", "minus m1", "low", "high")
    assert sorted(shown) == ["m17", "m5"]
    for name, (value, low, high, _, verdict) in shown.items():
        (same,) = compare(name, "m1", task="phoneme", folder=tmp_path / "r")
        assert [value, low, high] == pytest.approx([same.value, same.low, same.high], abs=1e-12)
        assert verdict == ("no difference found" if same.low <= 0 <= same.high else "worse")


def test_the_front_is_of_models_that_no_other_beats_in_quality_and_cost(tmp_path: Path) -> None:
    sizes = {"small": (1_000_000, 9), "good": (5_000_000, 1), "poor": (6_000_000, 5)}
    for name, (parameters, errors) in sizes.items():
        upstream = {**record(name).upstream, "parameters": parameters}
        write(tmp_path / "r", name, errors, upstream=upstream)
    costs = tmp_path / "costs"
    costs.mkdir()
    for name, macs in {"small": 2e9, "good": 1e9, "poor": 3e9}.items():
        cost = {"macs_per_second": macs, "audio_per_second": 40.0, "device": "cpu"}
        payload = {"name": name, "fingerprint": f"{name}-weights", "checks": [], "cost": cost}
        (costs / f"{name}.json").write_text(json.dumps(payload))
    page = report(tmp_path / "r", costs, out=tmp_path / "report.html")
    size = page.table("parameters (M)", "on the front")
    assert {name: row[-1] for name, row in size.items()} == {
        "small": "yes", "good": "yes", "poor": "no"
    }  # fmt: skip
    macs = page.table("multiply-accumulates (G per s of audio)", "on the front")
    assert {name: (row[0], row[-1]) for name, row in macs.items()} == {
        "small": (2.0, "no"), "good": (1.0, "yes"), "poor": (3.0, "no")
    }  # fmt: skip
    assert {row[0] for row in page.table("real-time factor", "low").values()} == {1 / 40}
    assert "not measured" not in page.text
    assert "not measured of good, poor, small" in report(tmp_path / "r", out=tmp_path / "x").text


def test_errors_stand_word_below_word(tmp_path: Path) -> None:
    write(tmp_path / "r", "m", 3)
    text = report(tmp_path / "r", out=tmp_path / "report.html").text
    assert "REF: a b c d\nHYP: a x * d\n       S D" in text
    assert re.findall(r"u\d\d: S 1, D 1, I 0 of 4", text)[:1] == ["u00: S 1, D 1, I 0 of 4"]
    assert "u03" not in text  # without an error


def test_names_are_text_everywhere(tmp_path: Path) -> None:
    write(tmp_path / "r", EVIL, 1)
    write(tmp_path / "r", f"{EVIL}2", 5)
    out = tmp_path / "report.html"
    page = report(tmp_path / "r", out=out)
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert "alert(" not in out.read_text(encoding="utf-8").split("<script>")[1]
    assert EVIL.replace("\x1b", "\\x1b") in page.text
    assert "\x1b" not in page.text


def test_nothing_is_loaded_and_ids_are_unique(tmp_path: Path) -> None:
    for errors in (1, 5):
        write(tmp_path / "r", f"m{errors}", errors)
    out = tmp_path / "report.html"
    page = report(tmp_path / "r", out=out)
    text = out.read_text(encoding="utf-8")
    assert "http:" not in text
    assert "https:" not in text
    assert not {"link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    links = [
        value for _, each in page.tags for key, value in each.items() if key in {"href", "src"}
    ]
    ids = [each["id"] for _, each in page.tags if "id" in each]
    assert len(ids) == len(set(ids))
    assert {str(link).removeprefix("#") for link in links} <= set(ids)
    assert all(str(link).startswith("#") for link in links)


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "r", "m", 3)
    write(tmp_path / "r", "n", 4)
    texts = set()
    for name in ("a", "b"):
        report(tmp_path / "r", out=tmp_path / name)
        texts.add((tmp_path / name).read_bytes())
    assert len(texts) == 1


def test_everything_is_there_without_javascript(tmp_path: Path) -> None:
    for errors in (1, 5):
        write(tmp_path / "r", f"m{errors}", errors)
    out = tmp_path / "report.html"
    whole = report(tmp_path / "r", out=out)
    bare = Page(re.sub(r"<script>.*?</script>", "", out.read_text(encoding="utf-8"), flags=re.S))
    assert whole.tables == bare.tables
    assert sum(tag == "svg" for tag, _ in bare.tags) >= 4
    hidden = re.search(r"display: *none(?![^}]*}\s*})", out.read_text(encoding="utf-8"))
    assert hidden is None  # only in print


def test_one_model_has_one_look(tmp_path: Path) -> None:
    for corpus in ("one", "two"):
        for errors in (1, 5):
            at = record("x", corpus=corpus).corpus
            write(tmp_path / corpus, f"m{errors}", errors, corpus=at)
    page = report(tmp_path / "one", tmp_path / "two", out=tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    for name in ("m1", "m5"):
        looks = set(re.findall(rf'class="(?:best )?(c\d m\d)">{name}\b', text))
        assert len(looks) == 1, name
    assert len(page.tables) > 4


def test_parts_without_content_say_why(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    page = report(tmp_path / "empty", out=tmp_path / "report.html")
    assert page.text.count("No record was given") == 8
    assert "No pretraining run was given" in page.text


def test_partial_results_and_folds_and_seeds_are_shown(tmp_path: Path) -> None:
    write(tmp_path / "r", "m", 3, folds={"1": 12.25, "2": 30.5})
    write(tmp_path / "r", "tried", 3, limit=5)
    page = report(tmp_path / "r", out=tmp_path / "report.html")
    assert page.table("fold") == {"1": [12.25], "2": [30.5]}
    assert "partial results (--limit), not ranked" in page.text
    assert "tried" not in page.table("upstream", "rank")


def test_a_suite_has_its_published_rows_apart(tmp_path: Path) -> None:
    suite = tmp_path / "mine.yaml"
    suite.write_text("rows:\n- {task: phoneme, recipe: phoneme_tiny, corpus: demo}\n")
    made = write(tmp_path / "r", "m", 3)
    other = {**record("m").upstream, "fingerprint": "v2-5"}  # another model of that name
    write(tmp_path / "tried", "m", 3, limit=5, upstream=other)
    paths = [tmp_path / "r", tmp_path / "tried"]
    write_report(paths, tmp_path / "report.html", suite=str(suite))
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    (row,) = [cells for name, cells in page.table("upstream", "mean place").items() if "m" in name]
    assert row[-1] == made.main.value
