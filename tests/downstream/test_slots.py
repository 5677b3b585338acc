"""Slot filling: units, targets, decoding, loss and head against s3prl's, and the way to a record."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from builders import TOY, call, run, spoken
from mt4ssl_bench import results
from mt4ssl_bench.corpora.prepare import prepare
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.sources.audio_snips import paired
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import Cut, speaker_of, text_of
from mt4ssl_bench.downstream import write_record
from mt4ssl_bench.downstream.config import RecurrentHeadConfig
from mt4ssl_bench.downstream.evaluate import evaluate
from mt4ssl_bench.downstream.heads.recurrent import RecurrentHead
from mt4ssl_bench.downstream.layers.best_heads import layer_curves
from mt4ssl_bench.downstream.plan import load_config, plan
from mt4ssl_bench.downstream.tasks.slots import LETTERS, Slots, SlotsConfig, marked
from mt4ssl_bench.downstream.transcribe import Recognizer, transcribe
from mt4ssl_bench.errors import ConfigError, CorpusError

SENTENCES = [  # text, slots
    ("play a song by muse", "O O music_item O artist"),
    ("Add Don't Stop to my list .", "O track track O owner playlist O"),  # punctuation is last
    ("Rock & Roll", "genre genre genre"),
    ("in 2040 ,", "O time O"),
    ("Paris - When It Sizzles ?", "film film film film film O"),  # within a slot
    ("- Paris", "film film"),  # the mark of its first word is skipped with it
    ("Paris -", "film film"),  # the mark of its last word
    ("is it ?! cold ;", "O O O weather O"),  # several signs in one word
    ("Málaga Kōgen\u2019s", "city O"),
    ("one two three", "time date time"),
    ("no slot here", "O O O"),
    ("?", "O"),
]
KEYS = ("head.projection=16", "head.hidden=16", "sweep=0.01", "steps=20", "validate_every=10")


def labelled(text: str, slots: str) -> Cut:
    return spoken(text).with_custom("labels", {"slots": slots})


def fitted(cuts: Sequence[Cut]) -> Slots:
    task = Slots(SlotsConfig(task="slots"))
    task.fit_units(cuts)
    return task


@pytest.fixture(scope="module")
def task() -> Slots:
    return fitted([labelled(*sentence) for sentence in SENTENCES])


@pytest.fixture(scope="module")
def encoder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Slots], Any]:
    """Make s3prl's encoder of a task's letters and slots."""
    folder = tmp_path_factory.mktemp("s3prl")

    def make(task: Slots) -> Any:
        text = pytest.importorskip("s3prl.downstream.ctc.text")
        (folder / "letters").write_text("\n".join(LETTERS))
        (folder / "slots").write_text("\n".join(["O", *task.fitted.slots]))
        return text.load_text_encoder("character-slot", folder / "letters", folder / "slots")

    return make


def line(text: str, slots: str) -> str:
    """A sentence as s3prl reads it from all.iob.snips.txt."""
    return f"BOS {text.upper()} EOS\tO {slots} AnIntent\n"


def test_targets_and_references_are_those_of_s3prl(
    task: Slots, encoder_of: Callable[[Slots], Any]
) -> None:
    theirs = encoder_of(task)
    assert task.outputs == theirs.vocab_size == 31 + 2 * 11
    for text, slots in SENTENCES:
        cut, ids = labelled(text, slots), theirs.encode(line(text, slots))
        assert task.target(cut).tolist() == ids, text
        assert task.reference(cut) == theirs.decode(ids), text


@pytest.mark.speech
def test_all_sentences_of_snips_have_the_targets_of_s3prl(
    speech: Path, encoder_of: Callable[[Slots], Any]
) -> None:
    lines: dict[str, list[tuple[str, str]]] = {}
    for split in ("train", "valid", "test"):
        rows = (speech / "tasks" / "snips_nlu" / f"{split}.tsv").read_text("utf-8").splitlines()[1:]
        cells = [row.split("\t")[1:3] for row in rows]
        lines[split] = [
            (text, " ".join(slot.rpartition("/")[2] for slot in slots.split(" ")))
            for text, slots in cells
        ]
    assert sum(map(len, lines.values())) == 1309 + 700 + 700

    def cut(text: str, slots: str) -> Cut:
        return labelled(*paired(text.split(" "), slots.split(" ")))

    task = fitted([cut(*sentence) for sentence in lines["train"]])
    theirs = encoder_of(task)
    assert task.outputs == theirs.vocab_size == 109
    unknown = 0
    for text, slots in (sentence for of in lines.values() for sentence in of):
        ids = theirs.encode(line(text, slots))
        assert task.target(cut(text, slots)).tolist() == ids, text
        assert task.reference(cut(text, slots)) == theirs.decode(ids), text
        unknown += 2 in ids
    assert unknown > 100


def test_a_hypothesis_is_the_best_path_without_blanks_and_ends(
    task: Slots, encoder_of: Callable[[Slots], Any]
) -> None:
    theirs = encoder_of(task)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 40, task.outputs, generator=generator)
    logits[..., :2] += 1.5  # blanks and ends
    for row, found in zip(logits, task.decode(logits, torch.full((8,), 40)), strict=True):
        path = row.argmax(-1).unique_consecutive().tolist()
        assert {0, 1} <= set(path)
        assert found == theirs.decode([unit for unit in path if unit > 1])


def test_the_loss_is_that_of_s3prl_on_the_same_logits(task: Slots) -> None:
    cuts = [labelled(*sentence) for sentence in SENTENCES[:3]]
    targets, lengths = [task.target(cut) for cut in cuts], torch.tensor([60, 45, 8])  # too short
    logits = torch.randn(3, 60, task.outputs, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True)
    theirs = torch.nn.CTCLoss(blank=0, zero_infinity=True)(  # s3prl/downstream/ctc/expert.py
        logits.log_softmax(-1).transpose(0, 1),
        padded,
        lengths,
        torch.tensor([len(t) for t in targets]),
    )
    assert float(theirs) > 0
    torch.testing.assert_close(task.loss(logits, lengths, targets).mean(), theirs)


def test_the_head_is_that_of_s3prls_expert_on_a_padded_batch() -> None:
    model = pytest.importorskip("s3prl.downstream.asr.model")
    torch.manual_seed(0)
    projector = torch.nn.Linear(24, 16)
    theirs = model.RNNs(
        16, 109, upstream_rate=320, module="LSTM", bidirection=True, dim=[10, 10],
        dropout=[0.2, 0.2], layer_norm=[False] * 2, proj=[False] * 2, sample_rate=[1, 1],
        sample_style="concat", total_rate=-1,
    ).eval()  # fmt: skip
    ours = RecurrentHead(1, 24, 109, RecurrentHeadConfig(projection=16, hidden=10)).eval()
    ours.projection.load_state_dict(projector.state_dict())
    ours.output.load_state_dict(theirs.linear.state_dict())
    for layer, ahead, back in zip(theirs.rnns, ours.forwards, ours.backwards, strict=True):
        state: dict[str, Tensor] = layer.layer.state_dict()
        ahead.load_state_dict({name: x for name, x in state.items() if "reverse" not in name})
        back.load_state_dict(
            {name.removesuffix("_reverse"): x for name, x in state.items() if "reverse" in name}
        )
    features, lengths = torch.randn(1, 3, 47, 24), torch.tensor([31, 47, 12])
    expected, _ = theirs(projector(features[0]), lengths)
    found, _ = ours(features, lengths)
    for row, other, length in zip(found, expected, lengths, strict=True):
        torch.testing.assert_close(row[:length], other[:length], atol=1e-5, rtol=1e-5)


def test_the_full_recipe_has_the_numbers_of_superb() -> None:
    config = load_config("slots")
    assert isinstance(config, SlotsConfig)
    assert (config.steps, config.batch, config.accumulate, config.validate_every) == (
        200_000,
        32,
        1,
        2_000,
    )
    head = config.head
    assert (head.projection, head.hidden, head.lstm_layers, head.dropout) == (1024, 1024, 2, 0.2)
    assert (head.spec_augment, config.clip_norm, config.mode) == (True, 1, "frozen")


def test_slots_are_numbered_by_falling_frequency_in_training(task: Slots) -> None:
    assert task.fitted.slots[:3] == ["time", "film", "artist"]
    assert len(set(task.fitted.symbols)) == len(task.fitted.symbols)
    again = Slots(SlotsConfig(task="slots"))
    again.restore(task.state())
    assert again.fitted.symbols == task.fitted.symbols


def test_a_language_model_is_refused(corpus: Corpus) -> None:
    with pytest.raises(ConfigError, match=r"^decode.lm: task 'slots' decodes without; expected no"):
        Slots(load_config("slots", [f"decode.lm={corpus.root / 'corpus.json'}"])).check()  # type: ignore[arg-type]


# ---- corpora, good and bad ----

KINDS = {"LOW": "O", "MID": "music_item", "HIGH": "artist"}


def with_slots(
    corpus: Corpus,
    root: Path,
    *,
    text: Mapping[str, str] | None = None,
    **change: Callable[[str], str],
) -> Corpus:
    """Prepare the tones with a slot for two of the three words.

    `text` gives other texts by id, `change` other slots by split.
    """
    rows = []
    for split in corpus.info.splits:
        for cut in corpus.cuts(split):
            words = (text or {}).get(cut.id, text_of(cut))
            slots = " ".join(KINDS.get(word, "O") for word in words.split())
            labels = {"slots": change[split](slots) if split in change else slots}
            path, speaker = Path(str(cut.recording.sources[0].source)), speaker_of(cut)
            rows.append(
                Row(id=cut.id, path=path, text=words, speaker=speaker, split=split, labels=labels)
            )
    return prepare(rows, root, source=root, name="slotted", synthetic=True)


def test_slots_are_filled_compared_and_ranked_through_a_record(
    corpus: Corpus, tmp_path: Path
) -> None:
    made = with_slots(corpus, tmp_path / "corpus")
    outcome = evaluate(
        ["fbank"], ["SF"], made.root, out=tmp_path / "out", overrides=KEYS, device="cpu"
    )
    assert not outcome.failures
    (record,) = outcome.results
    assert (record.task, record.recipe_name, record.main_metric) == (
        "slots",
        "slots_tiny",
        "slot_type_f1",
    )
    assert list(record.metrics) == ["slot_type_f1", "slot_value_cer"]
    assert record.metrics["slot_type_f1"].higher_is_better
    (file,) = (tmp_path / "out").glob("slots-*.json")
    (cut, *_), answers = made.cuts("test"), results.load_hypotheses(file)
    answer = next(answer for answer in answers if answer["id"] == cut.id)
    assert answer["reference"] == marked(text_of(cut), answer["labels"]["slots"])
    assert "B-artist HIGH E-artist" in answer["reference"]


def test_slots_are_fine_tuned_and_transcribed(corpus: Corpus, tmp_path: Path) -> None:
    made = with_slots(corpus, tmp_path / "corpus")
    keys = ("mode=finetune", "sweep=0.01", "steps=4", "validate_every=2", "tune.batch_seconds=8")
    outcome = evaluate(
        [f"random:{TOY}"], ["SF"], made.root, out=tmp_path, overrides=keys, device="cpu"
    )
    assert not outcome.failures
    assert outcome.results[0].mode == "finetune"
    (model,) = (tmp_path / "runs").glob("slots-*")
    recognizer = Recognizer(model)
    units = recognizer.task.fitted
    text = "PLAY B-artist MUSE E-artist"
    logits = 9 * F.one_hot(torch.tensor([units.encode(text)]), len(units)).float()
    assert recognizer.task.decode(logits, torch.tensor([logits.shape[1]])) == [text]
    file = Path(str(next(iter(made.cuts("test"))).recording.sources[0].source))
    assert next(iter(transcribe(model, [file])))[1] is not None
    with pytest.raises(ConfigError, match="decode.lm: task 'slots' decodes without"):
        recognizer.use({"lm": "any.arpa"})


def test_a_slot_that_training_never_shows_is_named_and_counted(
    corpus: Corpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = with_slots(
        corpus, tmp_path / "corpus", test=lambda slots: slots.replace("artist", "genre")
    )
    with caplog.at_level(logging.WARNING):
        outcome = evaluate(
            ["fbank"], ["SF"], made.root, out=tmp_path / "out", overrides=KEYS, device="cpu"
        )
    (record,) = outcome.results
    genres = sum("HIGH" in text_of(cut) for cut in made.cuts("test"))
    marks = record.counts["test_unknown_units"]
    assert marks >= 2 * genres > 0
    said = "2 units of split 'test' are not seen in training and count as errors"
    assert f"{said} ({marks} times): 'B-genre' {marks // 2}, 'E-genre' {marks // 2}" in caplog.text
    assert "slots=genre" in caplog.text, "prepare has named it before"
    answers = results.load_hypotheses(next((tmp_path / "out").glob("slots-*.json")))
    assert any("B-genre HIGH E-genre" in answer["reference"] for answer in answers)


@pytest.mark.parametrize("keys", [(), ("layers=all",)])
def test_without_a_slot_in_test_the_record_has_the_other_metric(
    corpus: Corpus, tmp_path: Path, caplog: pytest.LogCaptureFixture, keys: tuple[str, ...]
) -> None:
    made = with_slots(
        corpus, tmp_path / "corpus", test=lambda slots: " ".join("O" for _ in slots.split())
    )
    out = tmp_path / "out"
    with caplog.at_level(logging.WARNING):
        outcome = evaluate(
            ["fbank", "mfcc"], ["SF"], made.root, out=out, overrides=(*KEYS, *keys), device="cpu"
        )
    assert not outcome.failures
    for record in outcome.results:
        assert list(record.metrics) == ["slot_type_f1"]
        assert record.counts["test_without_slot_value_cer"] == made.info.splits["test"].utterances
        assert set(record.layer_scores) == ({"slot_type_f1"} if keys else set())
    assert "slot-value CER % ↓ has nothing to measure in test" in caplog.text
    assert call("leaderboard", out) == 0
    assert call("compare", "fbank", "mfcc", "--task", "slots", "--results", out) == 0


def test_a_metric_that_one_layer_lacks_has_no_curve(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_one(*arguments: Any) -> Any:
        curves = layer_curves(*arguments)
        return {**curves, "slot_value_cer": curves["slot_value_cer"][1:]}

    monkeypatch.setattr(write_record, "layer_curves", without_one)
    made, keys = with_slots(corpus, tmp_path / "corpus"), (*KEYS, "layers=all")
    outcome = evaluate(
        ["fbank"], ["SF"], made.root, out=tmp_path / "out", overrides=keys, device="cpu"
    )
    (record,) = outcome.results
    assert list(record.layer_scores) == ["slot_type_f1"]
    assert "slot_value_cer" in record.metrics
    (path,) = (tmp_path / "out").glob("*.json")
    assert call("show", path) == 0


def test_utterances_without_any_slot_are_scored_by_what_is_hypothesized(task: Slots) -> None:
    cut = labelled("no slot here", "O O O")
    assert task.measure([cut] * 2, ["NO SLOT HERE", "NO B-artist SLOT E-artist HERE"]) == 50.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda slots: f"{slots} O", r"utterance 's0-2': \d slots for (\d) words; expected one"),
        (lambda slots: slots[2:], r": \d slots for \d words; expected one slot for each word"),
    ],
)
def test_more_or_fewer_slots_than_words_are_refused(
    corpus: Corpus, tmp_path: Path, change: Callable[[str], str], message: str
) -> None:
    with pytest.raises(CorpusError, match=message) as caught:
        with_slots(corpus, tmp_path / "corpus", train=change)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "corpus").exists()


def test_a_corpus_without_slots_or_with_o_only_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="cannot be used for task 'slots': it has no slots"):
        plan("SF", corpus)
    none = with_slots(
        corpus, tmp_path / "o", train=lambda slots: " ".join("O" * len(slots.split()))
    )
    with pytest.raises(CorpusError, match="it needs slots, and has only O in the utterances of"):
        plan("SF", none)


def test_text_of_punctuation_only_is_an_empty_reference(corpus: Corpus, tmp_path: Path) -> None:
    made = with_slots(corpus, tmp_path / "corpus", text={"s0-0": "? ."})
    outcome = evaluate(
        ["fbank"], ["SF"], made.root, out=tmp_path / "out", overrides=KEYS, device="cpu"
    )
    (failure,) = outcome.failures
    assert "the reference of s0-0 in split 'test' is empty (1 of 3 utterances)" in failure
    assert "give it text and slots, or leave it out" in failure


TABLE = """id	path	text	slots	split
a	a.wav	play muse	O artist	train
b	a.wav	<silence>		train
c	a.wav	play queen	O artist	valid
d	a.wav	play abba	O artist	test
"""


def table(folder: Path, old: str = "", new: str = "") -> Path:
    import numpy as np
    import soundfile

    soundfile.write(
        folder / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(16_000), 16_000
    )
    (folder / "m.tsv").write_text(TABLE.replace(old, new) if old else TABLE)
    return folder / "m.tsv"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "O artist\tvalid",
            "artist\tvalid",
            "utterance 'c': 1 slots for 2 words; expected one slot",
        ),
        (
            "O artist\tvalid",
            "\tvalid",
            "utterance 'c' has no slots (line 4; 1 of 4 rows have a gap)",
        ),
        ("play queen", "", "utterance 'c' has no text (line 4; 1 of 4 rows have a gap)"),
        ("<silence>\t", "<silence>\tO", "utterance 'b': 1 slots for 0 words; expected one slot"),
    ],
)
def test_a_table_with_other_slots_than_words_is_told_in_one_line(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    out = ("--out", tmp_path / "out")
    done = run("prepare", "table", table(tmp_path, old, new), "--label", "slots", *out)
    assert done.returncode == 2
    (error,) = (line for line in done.stderr.splitlines() if "utterance" in line)
    assert message in error
    partial = run("prepare", "table", tmp_path / "m.tsv", "--label", "slots", *out, "--partial")
    assert partial.returncode == 0, partial.stderr
    assert "left out 1 of 4" in partial.stderr


def test_a_table_with_slots_becomes_a_corpus_whose_classes_are_slots(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("prepare", "table", table(tmp_path), "--label", "slots", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "slots" in json.loads((out / "corpus.json").read_text())["fields"]
    checked = run("check", out)
    assert "slots: 2 classes, from 'O' (50.0 %) to 'artist'" in checked.stdout
    assert not plan("SF", Corpus.open(out)).config.identity().get("decode.lm")
