"""ABX of the student's layers at validation: the same after a resume, beside the training, and
refused before it.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from builders import RATE, identical, read_log, speak, toy_config
from mt4ssl_bench import checkpoint
from mt4ssl_bench.abx.score import score_layers
from mt4ssl_bench.abx.spans import find_frames
from mt4ssl_bench.corpora.prepare import prepare
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import Turn
from mt4ssl_bench.encoders.load import load_upstream
from mt4ssl_bench.errors import BenchError
from mt4ssl_bench.upstream.pretrain import Pretraining, open_pretraining
from mt4ssl_bench.upstream.valid_abx import REPEATS, open_valid_abx

KEYS = ["fit.steps=6", "fit.save_every=2", "fit.validate_every=2", "data.min_seconds=0.1"]


def spoken(folder: Path, speakers: int, words: int, *, aligned: bool, each: int = 5) -> Corpus:
    """Prepare tones that speakers say `each` times: `words` in an utterance, with their times."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    rows = []
    for number in range(2 * speakers * each):
        speaker, split = number % speakers, ("train", "valid")[number // (speakers * each)]
        said = [("LOW", "MID", "HIGH")[(number // speakers + n) % 3] for n in range(words)]
        path = folder / f"u{number}.flac"
        waves = [speak([word], speaker, rng) for word in said]
        soundfile.write(path, np.concatenate(waves), RATE)
        ends = np.cumsum([len(wave) / RATE for wave in waves]).tolist()
        turns = tuple(map(Turn, [0.0, *ends[:-1]], ends, said))
        rows.append(
            Row(
                id=path.stem,
                path=path,
                speaker=f"s{speaker}",
                split=split,
                text=" ".join(said),
                turns={"phones": turns} if aligned else {},
            )
        )
    return prepare(rows, folder / "corpus", source=folder, name=folder.name, synthetic=True)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return spoken(tmp_path_factory.mktemp("c") / "words", 3, 1, aligned=False)


@pytest.fixture(scope="module")
def phones(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return spoken(tmp_path_factory.mktemp("c") / "phones", 2, 5, aligned=True)


def opened(corpus: Corpus, *keys: str) -> Pretraining:
    return open_pretraining(toy_config(f"data.corpus={corpus.root}", *KEYS, *keys))


def scores(run: Path) -> list[dict[str, Any]]:
    """Return the lines of validation."""
    return [line for line in read_log(run) if "valid_offline" in line]


@pytest.mark.parametrize("kind", ["words", "phones"])
def test_each_validation_logs_every_layer_and_changes_no_weight(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    corpus = request.getfixturevalue(kind)
    opened(corpus, "abx_tokens=60").run(tmp_path / "with")
    opened(corpus).run(tmp_path / "without")
    ends = [checkpoint.load(tmp_path / n / "checkpoint.pt")["model"] for n in ("with", "without")]
    assert identical(*ends)
    lines, plain = scores(tmp_path / "with"), scores(tmp_path / "without")
    assert [line["step"] for line in lines] == [2, 4, 6]
    names = {f"valid_abx_{mode}_{n}" for mode in ("within", "across") for n in range(3)}
    for line, other in zip(lines, plain, strict=True):
        assert line.keys() - other.keys() == names
        assert all(line[key] == value for key, value in other.items())
        assert all(0 <= line[name] <= 100 for name in names)
    assert lines[0] != lines[-1]


def test_they_are_the_scores_of_the_stored_model(words: Corpus, tmp_path: Path) -> None:
    opened(words, "abx_tokens=60").run(tmp_path / "run")
    model = load_upstream(str(tmp_path / "run"))
    chosen = open_valid_abx([words], "valid", 60)

    def features(name: str) -> torch.Tensor:
        wave = chosen.waves[name]
        return model.extract(wave[None], torch.tensor([len(wave)])).layers[:, 0]

    counts = {name: features(name).shape[1] for name in chosen.waves}
    tables = score_layers(find_frames(chosen.spans.tokens, counts), features, chosen.config)
    last = scores(tmp_path / "run")[-1]
    for mode, table in tables.items():
        ours = [last[f"valid_abx_{mode}_{n}"] for n in range(3)]
        assert ours == pytest.approx((100 * table.errors()).tolist(), abs=1e-3)


def test_a_run_that_was_cut_off_logs_the_same_scores(
    phones: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(phones, "abx_tokens=40").run(tmp_path / "whole")
    validate = Pretraining.validate

    def fail(self: Pretraining, step: int) -> dict[str, float]:
        if step == 4:
            raise RuntimeError("cut off")
        return validate(self, step)

    monkeypatch.setattr(Pretraining, "validate", fail)
    with pytest.raises(RuntimeError, match="cut off"):
        opened(phones, "abx_tokens=40").run(tmp_path / "cut")
    monkeypatch.undo()
    opened(phones, "abx_tokens=40").run(tmp_path / "cut")
    assert scores(tmp_path / "cut") == scores(tmp_path / "whole")


def test_tokens_are_few_and_the_same_in_every_run(phones: Corpus) -> None:
    first, again = (open_valid_abx([phones], "valid", 18) for _ in range(2))
    assert first.spans.tokens == again.spans.tokens
    assert first.spans.starts.tolist() == again.spans.starts.tolist()
    assert len(first.spans.tokens) <= 18
    sets = [(token.category, token.group) for token in first.spans.tokens]
    assert max(map(sets.count, sets)) <= REPEATS
    assert {group for _, group in sets} == {"s0", "s1"}


def test_an_alignment_comes_before_words(words: Corpus, phones: Corpus) -> None:
    assert set(open_valid_abx([words, phones], "valid", 60).waves) <= {
        cut.id for cut in phones.cuts("valid")
    }


def test_a_run_of_before_the_key_opens_and_it_may_be_switched_on(
    words: Corpus, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    opened(words, "fit.steps=6").run(run)
    stored = checkpoint.load(run / "checkpoint.pt")
    del stored["config"]["abx_tokens"]
    checkpoint.save(stored, run / "checkpoint.pt")
    assert load_upstream(str(run)).num_layers == 3
    assert opened(words, "abx_tokens=60").run(run).finished
    config = json.loads((run / "config.json").read_text())
    assert config.keys() - stored["config"].keys() <= {"abx_tokens"}


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        ((3, 2, False), "valid' has neither time-aligned phones nor utterances of one word"),
        ((1, 1, False), r"has one speaker \(s0\); expected tokens of two speakers"),
    ],
)
def test_a_corpus_that_does_not_serve_is_refused_before_labels(
    tmp_path: Path, make: tuple[int, int, bool], reason: str
) -> None:
    speakers, count, aligned = make
    corpus = spoken(tmp_path / "c", speakers, count, aligned=aligned)
    with pytest.raises(BenchError, match=reason) as error:
        opened(corpus, "abx_tokens=60")
    assert "\n" not in str(error.value)
    assert not (corpus.root / "labels").exists()


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(BenchError, match="abx_tokens=-1: expected 0 or more"):
        open_pretraining(dataclasses.replace(toy_config("data.corpus=c"), abx_tokens=-1))
