"""What an evaluation writes: a record whose numbers follow from its hypotheses."""

from pathlib import Path

import jiwer
import pytest

from builders import recipe
from fakes import Spectrum
from mt4ssl_bench import results
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import speaker_of, text_of
from mt4ssl_bench.downstream.clock import Clock
from mt4ssl_bench.downstream.evaluate import evaluate
from mt4ssl_bench.encoders import load
from mt4ssl_bench.results.record import Result


@pytest.fixture(scope="module")
def written(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    out = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "load_upstream", lambda name, **_: Spectrum(name))
        made = evaluate(["mine"], [recipe("asr")], corpus.root, out=out, device="cpu")
    assert not made.failures
    (path,) = out.glob("*.json")
    return results.load(path), path


def test_the_scores_follow_from_the_hypotheses_file(
    written: tuple[Result, Path],
) -> None:
    record, path = written
    answers = results.load_hypotheses(path)
    references, hypotheses = zip(*((a["reference"], a["hypothesis"]) for a in answers), strict=True)
    scores = record.metrics
    assert scores["wer"].value == pytest.approx(100 * jiwer.wer(list(references), list(hypotheses)))
    assert scores["cer"].value == pytest.approx(100 * jiwer.cer(list(references), list(hypotheses)))


def test_references_and_speakers_are_the_corpus_s(
    written: tuple[Result, Path], corpus: Corpus
) -> None:
    answers = {a["id"]: (a["reference"], a["speaker"]) for a in results.load_hypotheses(written[1])}
    assert answers == {c.id: (text_of(c), speaker_of(c)) for c in corpus.cuts("test")}


def test_the_record_names_model_corpus_recipe_and_trials(
    written: tuple[Result, Path], corpus: Corpus
) -> None:
    record, _ = written
    assert (record.upstream["name"], record.upstream["num_layers"]) == ("mine", 2)
    assert (record.corpus["digest"], record.corpus["synthetic"]) == (corpus.info.digest, True)
    assert record.corpus["splits"]["test"]["utterances"] == 3
    assert (record.corpus["phones_from"], record.corpus["left_out"]) == ("manifest", 0)
    assert all(isinstance(text, str) for text in record.corpus["notes"].values())
    assert record.recipe["steps"] == 20
    assert [(trial["lr"], trial["chosen"]) for trial in record.sweep] == [(0.01, True)]
    assert sum(record.layer_weights) == pytest.approx(1)
    assert len(record.layer_norms) == 2
    assert {"features", "train", "test"} <= record.wall_seconds.keys()


def test_the_row_is_there_for_the_next_evaluation(
    written: tuple[Result, Path], corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "load_upstream", lambda name, **_: Spectrum(name, broken=True))
    before = written[1].stat().st_mtime_ns
    again = evaluate(["mine"], [recipe("asr")], corpus.root, out=written[1].parent, device="cpu")
    assert again.reused == 1
    assert written[1].stat().st_mtime_ns == before


def test_a_stage_takes_the_time_since_the_one_before_or_what_it_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr("mt4ssl_bench.downstream.clock.time.monotonic", lambda: now[0])
    clock = Clock()
    for name, seconds in (("features", None), ("train", 50.0), ("test", None)):
        now[0] += 2.5
        clock.lap(name, seconds)
    assert clock.laps == {"features": 2.5, "train": 50.0, "test": 2.5}
