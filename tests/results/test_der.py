"""DER: equal to md-eval and to pyannote.metrics on real meetings, and to a loop over frames."""

import itertools
import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from mt4ssl_bench.data.alignment import read_rttm
from mt4ssl_bench.data.cut import Turn
from mt4ssl_bench.data.turns import from_text, merged, to_rttm, to_text
from mt4ssl_bench.results.answers import Answer
from mt4ssl_bench.results.metrics.der import DER, DER_BY_RULE, time_counts

END = 30.0  # seconds of each excerpt of the meetings
A, B = Turn(0.0, 2.0, "a"), Turn(1.0, 4.0, "b")


def answers(reference: dict[str, list[Turn]], hypothesis: dict[str, list[Turn]]) -> list[Answer]:
    return [
        {
            "id": name,
            "speaker": None,
            "reference": to_text(turns),
            "hypothesis": to_text(hypothesis.get(name, [])),
        }
        for name, turns in reference.items()
    ]


@pytest.fixture
def meetings(speech: Path) -> Path:
    folder = speech / "tasks" / "pyannote_debug"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder


def read(files: Iterable[Path]) -> dict[str, list[Turn]]:
    """Read RTTM files; turns beyond the end are cut off, as the UEM says."""
    return {
        name: [turn._replace(end=min(turn.end, END)) for turn in turns if turn.start < END]
        for file in files
        for name, turns in read_rttm(file).segments.items()
    }


@pytest.mark.speech
def test_it_equals_md_eval_on_six_hypotheses_of_fourteen_meetings(meetings: Path) -> None:
    reference = read(sorted(meetings.glob("debug.*.rttm")))
    assert len(reference) == 14
    header, *lines = (meetings / "der_expected.tsv").read_text().splitlines()
    assert len(lines) == 6
    for line in lines:
        row = dict(zip(header.split("\t"), line.split("\t"), strict=True))
        rows = answers(reference, read([meetings / "hypotheses" / f"{row['hypothesis']}.rttm"]))
        score = DER.score(rows)
        assert f"{score.value:.2f}" == row["md_eval_22_der"], row
        parts = [score.deletions, score.insertions, score.substitutions]
        assert score.total
        shares = [100 * part / score.total for part in parts]
        expected = [float(row[name]) for name in ("miss", "false_alarm", "confusion")]
        assert shares == pytest.approx(expected, abs=1e-4), row
        assert score.over == "recordings"
        assert score.low <= score.value <= score.high


@pytest.mark.speech
def test_it_equals_pyannote_metrics(meetings: Path) -> None:
    core = pytest.importorskip("pyannote.core", reason="dev extra")
    oracle = pytest.importorskip("pyannote.metrics.diarization", reason="dev extra")

    def annotation(turns: list[Turn]) -> object:
        made = core.Annotation()
        for number, turn in enumerate(turns):
            made[core.Segment(turn.start, turn.end), number] = turn.label
        return made

    whole = core.Timeline([core.Segment(0, END)])
    reference = read(sorted(meetings.glob("debug.*.rttm")))
    for file in sorted((meetings / "hypotheses").glob("*.rttm")):
        rate = oracle.DiarizationErrorRate(collar=0.0, skip_overlap=False)
        hypothesis = read([file])
        for name, turns in reference.items():
            other = annotation(merged(hypothesis.get(name, [])))
            rate(annotation(merged(turns)), other, uem=whole)
        score = DER.value(answers(reference, hypothesis))
        assert score == pytest.approx(100 * abs(rate), abs=1e-9), file.stem


def frames(turns: list[Turn], names: list[str], count: int) -> np.ndarray:
    """Who is active in each millisecond (names, count)."""
    active = np.zeros((len(names), count), dtype=bool)
    for turn in turns:
        active[names.index(turn.label), round(1000 * turn.start) : round(1000 * turn.end)] = True
    return active


def test_it_equals_a_loop_over_milliseconds_and_mappings() -> None:
    rng = random.Random(0)  # noqa: S311
    for _ in range(50):

        def turns(speakers: str) -> list[Turn]:
            found = []
            for _ in range(rng.randint(0, 6)):
                start, lasts = rng.randint(0, 900) / 1000, rng.randint(1, 300) / 1000
                found.append(Turn(start, start + lasts, rng.choice(speakers)))
            return found

        reference, hypothesis = turns("abc"), turns("xy")
        ours, theirs = frames(reference, list("abc"), 1200), frames(hypothesis, list("xyz"), 1200)
        spoken, found = ours.sum(0), theirs.sum(0)
        matched = max(
            sum((ours[i] & theirs[j]).sum() for i, j in enumerate(mapping))
            for mapping in itertools.permutations(range(3))
        )
        assert time_counts(reference, hypothesis) == (
            np.minimum(spoken, found).sum() - matched,
            np.maximum(spoken - found, 0).sum(),
            np.maximum(found - spoken, 0).sum(),
            spoken.sum(),
        )


def test_overlapping_and_touching_turns_of_one_speaker_count_once() -> None:
    twice = [Turn(0.0, 2.0, "a"), Turn(1.0, 3.0, "a"), Turn(3.0, 4.0, "a"), Turn(0.5, 0.7, "a")]
    assert merged([*twice, B]) == [Turn(0.0, 4.0, "a"), B]
    assert time_counts(twice, [Turn(0.0, 4.0, "x")]) == (0, 0, 0, 4000)


def test_a_recording_without_speech_has_only_false_alarms() -> None:
    assert time_counts([], [A]) == (0, 0, 2000, 0)
    assert time_counts([], []) == (0, 0, 0, 0)
    rows = answers({"quiet": [], "loud": [A, B]}, {"quiet": [A], "loud": [A, B]})
    assert DER.score(rows).value == 40.0


def test_the_best_setting_on_test_stands_beside_and_never_ranks() -> None:
    rows = answers({"one": [A, B], "two": [A]}, {"one": [A], "two": []})
    for row, half in zip(rows, ([A], [A]), strict=True):
        row["variants"] = {"0.5, 1": row["hypothesis"], "0.3, 1": to_text(half)}
    assert (DER.value(rows), DER_BY_RULE.value(rows)) == (100 * 5 / 7, 100 * 3 / 7)
    assert not DER_BY_RULE.ranked


def test_turns_survive_their_text_and_an_rttm(tmp_path: Path) -> None:
    turns = [Turn(0.0, 1.234, "a b"), Turn(1.0, 2.0, "x; y"), Turn(1.5, 3.25, "z-1 0.1-0.2")]
    again = from_text(to_text(turns))
    assert [turn._replace(label="") for turn in again] == [t._replace(label="") for t in turns]
    assert [turn.label for turn in again] == ["a b", "x, y", "z-1 0.1-0.2"]
    assert from_text(to_text([])) == []
    file = tmp_path / "turns.rttm"
    file.write_text(to_rttm({"one": [A, B], "two": [B]}))
    assert read_rttm(file).segments == {"one": [A, B], "two": [B]}
