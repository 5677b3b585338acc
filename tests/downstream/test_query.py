"""SUPERB's QbE from a corpus to its record: what is scored, what is left out, and by which layer."""

import json
import logging
import re
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

import librosa
import numpy as np
import pytest
import soundfile
from scipy.spatial.distance import cdist

from builders import FIXTURES, RATE, call, run, speak
from mt4ssl_bench.corpora.prepare import prepare
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.data.batches import pad
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.downstream.dry_run import estimate
from mt4ssl_bench.downstream.evaluate import evaluate
from mt4ssl_bench.downstream.plan import plan
from mt4ssl_bench.encoders.load import load_upstream
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.results.compare import compare
from mt4ssl_bench.results.metrics.term_weighted import MTWV
from mt4ssl_bench.results.record_files import load, load_hypotheses

DOCUMENTS = ("LOW MID", "HIGH LOW HIGH", "MID", "HIGH HIGH", "MID LOW", "MID HIGH", "LOW")
Audio = Mapping[str, tuple[str, np.ndarray]]  # split and samples, by utterance id


def spoken() -> dict[str, tuple[str, np.ndarray]]:
    """Return documents and queries of tones, each query by another speaker than the documents."""
    rng = np.random.default_rng(0)
    made = {
        f"d{number}": ("documents", speak(text.split(), 0, rng))
        for number, text in enumerate(DOCUMENTS)
    }
    for place, split in enumerate(("valid", "test"), start=1):
        for word in ("LOW", "MID", "HIGH"):
            made[f"{split}-{word}"] = (split, speak([word], place, rng))
    return made


def matches_of(made: Audio) -> list[dict[str, str]]:
    return [
        {"query_id": query, "document_id": f"d{number}"}
        for query in made
        for number, text in enumerate(DOCUMENTS)
        if query.partition("-")[2] in text.split()
    ]


def corpus_of(root: Path, made: Audio, matches: Sequence[Mapping[str, str]]) -> Corpus:
    rows = []
    for name, (split, samples) in made.items():
        path = root / "in" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, RATE, subtype="FLOAT")
        rows.append(Row(id=name, path=path, split=split))
    lists = {"matches": matches} if matches else None
    return prepare(rows, root / "out", source=root, name="tones", lists=lists, synthetic=True)


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    made = spoken()
    return corpus_of(tmp_path_factory.mktemp("tones"), made, matches_of(made))


def by_hand(made: Audio, split: str) -> dict[str, dict[str, float]]:
    """Return the scores by query and document, pair by pair as in s3prl's quesst14_dtw."""
    model, gain = load_upstream("mfcc"), np.float32(10 ** (-3 / 20))
    features = {}
    for name, (of, samples) in made.items():
        if of in {"documents", split}:
            layers, lengths = model.extract(*pad([gain * samples]))
            features[name] = layers[0, 0, : lengths[0]].double().numpy()
    frames = np.concatenate(list(features.values()))
    mean, deviation = frames.mean(0), frames.std(0, ddof=1)
    scores: dict[str, dict[str, float]] = {}
    for query in (name for name in features if made[name][0] == split):
        pairs = {}
        for document in (name for name in features if made[name][0] == "documents"):
            x, y = ((features[name] - mean) / deviation for name in (query, document))
            found = np.exp(cdist(x, y, "cosine")) - 1
            low, high = found.min(1)[:, None], found.max(1)[:, None]
            costs = librosa.sequence.dtw(
                C=(found - low) / (high - low), subseq=True, backtrack=False,
                step_sizes_sigma=np.array([[1, 0], [1, 1], [1, 2]]),
                weights_add=np.zeros(3), weights_mul=np.ones(3),
            )  # fmt: skip
            pairs[document] = -costs[-1].min() / len(x)
        values = np.array(list(pairs.values()))
        normed = (values - values.mean()) / values.std()
        scores[query] = dict(zip(pairs, normed.tolist(), strict=True))
    return scores


def test_scores_of_a_record_are_those_computed_pair_by_pair(tones: Corpus, tmp_path: Path) -> None:
    keys = ["store.precision=fp32"]
    outcome = evaluate(["mfcc"], ["QbE"], tones.root, out=tmp_path, overrides=keys, device="cpu")
    assert not outcome.failures
    (path,) = tmp_path.glob("query-*.json")
    record, answers = load(path), load_hypotheses(path)
    expected = by_hand(spoken(), "test")
    assert [answer["id"] for answer in answers] == list(expected)
    for answer in answers:
        scores = json.loads(answer["hypothesis"])
        assert list(scores) == [f"d{number}" for number in range(len(DOCUMENTS))]
        assert scores == pytest.approx(expected[answer["id"]], abs=1e-3)
    assert json.loads(answers[2]["reference"]) == ["d1", "d3", "d5"]
    score = record.metrics["mtwv"]
    assert score.value == MTWV.value(answers) > 0
    assert (record.layer, record.chosen_on, record.recipe_name) == (0, "valid", "query")
    assert [each["value"] for each in record.layer_scores["mtwv"]] == [score.value]
    assert record.corpus["splits"].keys() == {"documents", "valid", "test"}
    assert record.counts == {
        "documents_utterances": 7,
        "valid_utterances": 3,
        "test_utterances": 3,
        "queries": 3,
        "occurrences": 11,
    }


def test_documents_are_passed_once_for_both_splits_and_counted_by_a_dry_run(
    tones: Corpus, tmp_path: Path
) -> None:
    planned = estimate(["mfcc"], ["query"], tones.root, out=tmp_path, device="cpu")
    hours = sum(split.hours for split in tones.info.splits.values())
    assert planned.passes.hours == pytest.approx(hours, rel=0.01)
    assert not evaluate(["mfcc"], ["query"], tones.root, out=tmp_path, device="cpu").failures
    assert len(list(tmp_path.rglob("documents.frames*.bin"))) == 1
    assert all("+gain-3.0dB" in file.name for file in tmp_path.rglob("*.bin"))
    # what does not fit onto the disk is computed again
    live = evaluate(["mfcc"], ["query"], tones.root, out=tmp_path / "live", device="cpu",
                    overrides=["store.limit_gb=0"])  # fmt: skip
    stored, again = (
        load_hypotheses(next(p.glob("query-*.json"))) for p in (tmp_path, tmp_path / "live")
    )
    assert not live.failures
    for one, other in zip(stored, again, strict=True):
        scores = (json.loads(side["hypothesis"]) for side in (one, other))
        assert next(scores) == pytest.approx(next(scores), abs=2e-3)


def test_quesst_s_own_scorer_is_given_the_scores_of_a_record(
    tones: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not evaluate(["mfcc"], ["query"], tones.root, out=tmp_path, device="cpu").failures
    (record,) = tmp_path.glob("query-*.json")
    script = Path(__file__).parents[2] / "benchmarks" / "quesst_scorer.py"
    monkeypatch.setattr("sys.argv", [script.name, str(record), str(tmp_path / "scored")])
    runpy.run_path(str(script), run_name="__main__")
    file = tmp_path / "scored" / "benchmark.stdlist.xml"
    root = ET.parse(file).getroot()  # noqa: S314 - written here
    assert root.tag == "stdlist"
    found = {
        query.attrib["termid"]: {term.attrib["file"]: float(term.attrib["score"]) for term in query}
        for query in root
    }
    expected = {row["id"]: json.loads(row["hypothesis"]) for row in load_hypotheses(record)}
    assert found == expected


def test_layers_are_scored_each_and_compared_in_pairs(tones: Corpus, tmp_path: Path) -> None:
    names = ["mfcc", f"random:{FIXTURES / 'toy.yaml'}"]
    outcome = evaluate(names, ["query"], tones.root, out=tmp_path, device="cpu")
    assert not outcome.failures
    good, bad = outcome.results
    assert len(bad.layer_scores["mtwv"]) == bad.upstream["num_layers"] > 1
    difference = compare(good.upstream["name"], bad.upstream["name"], task="query", folder=tmp_path)
    assert difference[0].units == 3
    assert difference[0].value == pytest.approx(good.main.value - bad.main.value)
    other = evaluate(names[:1], ["query"], tones.root, out=tmp_path, overrides=["distance=cosine"],
                     device="cpu")  # fmt: skip
    assert other.reused == 0
    assert other.results[0].settings == {"distance": "cosine"}


def test_what_cannot_be_scored_is_left_out_named_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = spoken()
    made["test-LOW"] = ("test", np.zeros(RATE // 2, dtype=np.float32))
    made["test-MID"] = ("test", made["test-MID"][1][: RATE // 25])  # 40 ms are 2 frames
    made["test-NEVER"] = ("test", made["test-HIGH"][1])
    made["spare"] = ("train", made["test-HIGH"][1])
    wrong = [
        {"query_id": "spare", "document_id": "d1"},
        {"query_id": "test-HIGH", "document_id": "spare"},
    ]
    corpus = corpus_of(tmp_path, made, matches_of(made) + wrong)
    with caplog.at_level(logging.WARNING):
        outcome = evaluate(["mfcc"], ["query"], corpus.root, out=tmp_path / "out", device="cpu")
    assert not outcome.failures
    (record,) = outcome.results
    counts = {name: n for name, n in record.counts.items() if name != "test_utterances"}
    assert counts == {
        "documents_utterances": 7,
        "valid_utterances": 3,
        "test_left_out": 1,
        "matches_left_out": 2,
        "queries": 2,
        "occurrences": 7,
        "queries_without_occurrence": 1,
        "short_queries": 1,
    }
    for line in (
        "query: skipping 2 of 24 rows of list 'matches', which name no query of valid and test",
        "or no document: 'spare' in 'd1', 'test-HIGH' in 'spare'",
        "query: 1 queries that occur in no document are left out: test-NEVER",
        "query: leaving out: 1 of 4 queries of test are silence: test-LOW",
        "query: 1 queries with fewer than 5 frames score all documents alike: test-MID",
    ):
        assert line in caplog.text
    answers = load_hypotheses(next((tmp_path / "out").glob("query-*.json")))
    assert [answer["id"] for answer in answers] == ["test-MID", "test-HIGH"]
    assert set(json.loads(answers[0]["hypothesis"]).values()) == {0.0}


def without(made: Audio, split: str) -> Audio:
    return {name: each for name, each in made.items() if each[0] != split}


def test_a_corpus_that_cannot_be_used_is_refused_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = spoken()
    no_list = corpus_of(tmp_path / "a", made, [])
    with pytest.raises(CorpusError, match="task 'query': it has no list:matches; this corpus has"):
        plan("query", no_list)
    one = {"query_id": "valid-LOW", "document_id": "test-LOW"}
    no_documents = corpus_of(tmp_path / "b", without(made, "documents"), [one])
    with pytest.raises(CorpusError, match="task 'query': no split 'documents'; known: "):
        plan("query", no_documents)
    with pytest.raises(CorpusError, match="row 1: query_id names no utterance of the corpus: 'x'"):
        corpus_of(tmp_path / "c", made, [{"query_id": "x", "document_id": "d1"}])
    nothing = corpus_of(tmp_path / "d", made, [one])
    words = ("evaluate", "mfcc", "--task", "qbe", "--corpus", nothing.root, "--out", tmp_path)
    assert call(*words) == 1
    assert "none of 3 queries occurs in one of 7 documents; expected" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.json"))
    other = corpus_of(tmp_path / "f", made, [{"query_id": "valid-LOW", "file_id": "d1"}])
    for name in [name for name in made if name.startswith("valid")]:
        made[name] = ("valid", np.zeros(RATE, dtype=np.float32))
    with pytest.raises(CorpusError, match="no column document_id; expected query_id, document_id"):
        plan("query", other).task().take({role: [] for role in ("documents", "valid", "test")})
    silent = corpus_of(tmp_path / "e", made, matches_of(made))
    (failure,) = evaluate(["mfcc"], ["query"], silent.root, out=tmp_path, device="cpu").failures
    assert "3 of 3 queries of valid are silence: valid-LOW, valid-MID, valid-HIGH;" in failure


def test_without_valid_the_layer_is_chosen_on_test_and_the_log_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = without(spoken(), "valid")
    corpus = corpus_of(tmp_path, made, matches_of(made))
    toy = f"random:{FIXTURES / 'toy.yaml'}"
    words = ("evaluate", toy, "--task", "query", "--corpus", corpus.root, "--out", tmp_path / "r")
    assert call(*words) == 0
    assert "is chosen on test itself, so its score is optimistic" in capsys.readouterr().err
    for key, message in (
        ("mode=finetune", "task 'query' trains nothing; expected mode=frozen"),
        ("distance=angle", "distance"),
    ):
        assert call(*words, key) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


@pytest.mark.long
@pytest.mark.speech
def test_digits_are_found_in_strings_by_the_commands_of_the_docs(
    speech: Path, tmp_path: Path
) -> None:
    page = Path(__file__).parents[2] / "docs" / "tasks" / "query.md"
    (script,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    for folder in ("fsdd_strings", "tasks/fsdd_queries"):
        (tmp_path / Path(folder).name).symlink_to(speech / folder)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False)
    assert done.returncode == 0
    table = ("table", tmp_path / "digits.tsv", "--list", f"matches={tmp_path / 'matches.tsv'}")
    done = run("prepare", *table, "--out", tmp_path / "digits")
    assert done.returncode == 0, done.stderr
    names = ("mfcc", "random:mt4ssl_tiny")
    done = run("evaluate", *names, "--task", "QbE", "--corpus", tmp_path / "digits",
               "--out", tmp_path / "out")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "query MTWV x100 ↑" in done.stdout
    scores = {r.upstream["name"]: r.main for r in map(load, (tmp_path / "out").glob("*.json"))}
    assert scores["mfcc"].low > scores["random:mt4ssl_tiny"].value
    done = run("compare", *names, "--task", "query", "--results", tmp_path / "out")
    assert "mfcc is better" in done.stdout, done.stdout
