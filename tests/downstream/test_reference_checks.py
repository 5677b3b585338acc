"""Data that a task cannot use: named with task, split and number, before any head is trained."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.downstream.job import ROLES, Fold, Job
from mt4ssl_bench.downstream.plan import plan
from mt4ssl_bench.downstream.reference_checks import check_references, learnable
from mt4ssl_bench.downstream.task import Task
from mt4ssl_bench.downstream.tasks.asr import ASR, ASRConfig
from mt4ssl_bench.errors import CorpusError

DATA = Path(__file__).parents[1] / "fixtures"


class Changed(Corpus):
    """A corpus whose cuts are changed as they are read, and which then promises no field for all of
    them.
    """

    def __init__(self, corpus: Corpus, change: Callable[[Any, str], None]) -> None:
        super().__init__(corpus.root, replace(corpus.info, fields=[]))
        self.change = change

    def cuts(self, split: str) -> list[Any]:  # type: ignore[override]
        found = [copy.deepcopy(cut) for cut in super().cuts(split)]
        for cut in found:
            self.change(cut.supervisions[0], split)
        return found


def opened(corpus: Corpus, name: str) -> tuple[Job, Task, dict[str, list[Any]]]:
    job = plan(str(DATA / f"toy_{name}.yaml"), corpus)
    task, cuts = job.kind(job.config), {role: job.cuts(role) for role in ROLES}
    task.fit_units(cuts["train"])
    return job, task, cuts


@pytest.mark.parametrize(
    ("name", "field"), [("asr", "text"), ("phoneme", "phones"), ("speaker", "speaker")]
)
def test_a_missing_field_is_counted_and_named(corpus: Corpus, name: str, field: str) -> None:
    def change(about: Any, split: str) -> None:
        if split == "valid" and about.recording_id in {"s0-1", "s2-1"}:
            about.text, about.custom, about.speaker = None, {}, None

    message = rf"task '{name}': 2 of 3 utterances of split 'valid' have no {field} \(s0-1, s2-1\)"
    with pytest.raises(CorpusError, match=message):
        plan(name, Changed(corpus, change))


def test_one_speaker_is_too_few(corpus: Corpus) -> None:
    def change(about: Any, split: str) -> None:
        about.speaker = "anna"

    with pytest.raises(
        CorpusError,
        match="task 'speaker': it needs two speakers, and has only 'anna' in the utterances of "
        "split 'train'",
    ):
        plan("speaker", Changed(corpus, change))


def test_speakers_that_training_never_hears_are_refused(corpus: Corpus) -> None:
    def change(about: Any, split: str) -> None:
        about.speaker += split

    with pytest.raises(
        CorpusError,
        match="nothing of split 'valid' is in the training split .*spk0valid.* in 3 utterances",
    ):
        check_references(*opened(Changed(corpus, change), "speaker"))


def test_unknown_characters_and_phonemes_are_listed_with_counts(
    corpus: Corpus, caplog: pytest.LogCaptureFixture
) -> None:

    def change(about: Any, split: str) -> None:
        if split == "test":
            about.text, about.custom = (
                about.text + " ÄÄ",
                {"phones": about.custom["phones"] + " ZH"},
            )

    corpus = Changed(corpus, change)
    assert check_references(*opened(corpus, "asr")) == {"test_unknown_units": 6}
    assert (
        "1 units of split 'test' are not seen in training and count as errors (6 times): 'Ä' 6"
        in caplog.text
    )
    assert check_references(*opened(corpus, "phoneme")) == {"test_unknown_units": 3}
    assert "'ZH' 3" in caplog.text


def test_pieces_count_unseen_letters_and_no_space(
    corpus: Corpus, caplog: pytest.LogCaptureFixture
) -> None:
    def change(about: Any, split: str) -> None:
        about.text += " ÄÄ" if split == "test" else ""

    for given, counts in ((corpus, {}), (Changed(corpus, change), {"test_unknown_units": 6})):
        job, _, cuts = opened(given, "asr")
        task = ASR(ASRConfig(units="sentencepiece", vocabulary=12))
        task.fit_units(cuts["train"])
        assert check_references(job, task, cuts) == counts
    assert "1 units of split 'test' are not seen in training" in caplog.text
    assert "(6 times): 'Ä' 6" in caplog.text


@pytest.mark.parametrize("units", ["characters", "sentencepiece"])
def test_references_that_units_write_differently_are_counted(
    corpus: Corpus, caplog: pytest.LogCaptureFixture, units: str
) -> None:
    def change(about: Any, split: str) -> None:
        about.text = "A  B" if about.recording_id in {"s0-0", "s0-3"} else "A B"

    job, _, cuts = opened(Changed(corpus, change), "asr")
    task = job.kind(replace(job.config, units=units, vocabulary=6))
    task.fit_units(cuts["train"])
    assert check_references(job, task, cuts) == {}
    (record,) = caplog.records
    assert record.getMessage().endswith(
        "the units write 1 of 3 references of split 'test' differently, without any error of the "
        "model: 'A  B' becomes 'A B'"
    )


def test_nothing_is_said_of_sound_data(corpus: Corpus, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("asr", "phoneme", "speaker"):
        assert check_references(*opened(corpus, name)) == {}
    assert not caplog.records


def test_an_empty_reference_of_speech_is_named_before_training(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, task, cuts = opened(corpus, "phoneme")
    monkeypatch.setattr(task, "reference", lambda cut: " " if cut.id == "s1-0" else "L OW")
    with pytest.raises(
        CorpusError,
        match=r"reference of s1-0 in split 'test' is empty \(1 of 3 utterances\), and not marked",
    ):
        check_references(job, task, cuts)


def silenced(*names: str) -> Callable[[Any, str], None]:
    """Return a change after which nobody speaks in some utterances."""

    def change(about: Any, split: str) -> None:
        if about.recording_id in names:
            about.text, about.custom = "", {}

    return change


@pytest.mark.parametrize("name", ["asr", "phoneme"])
def test_silent_utterances_are_counted_and_not_learnt_from(
    corpus: Corpus, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    job, task, cuts = opened(Changed(corpus, silenced("s0-0", "s1-1", "s2-3", "s2-4")), name)
    assert check_references(job, task, cuts) == {
        "train_silent_utterances": 2, "valid_silent_utterances": 1, "test_silent_utterances": 1
    }  # fmt: skip
    assert "nobody speaks in 2 of 18 utterances of split 'train': left out of tr" in caplog.text
    assert "of split 'test': what is recognized in them counts as errors (s0-0)" in caplog.text
    kept, left = learnable(job, Fold(task, cuts), lambda cut: 1000)  # noqa: ARG005
    assert ({cut.id for cut in cuts["train"]} - {cut.id for cut in kept}, left) == (
        {"s2-3", "s2-4"}, {}
    )  # fmt: skip


def test_a_split_in_which_nobody_speaks_is_refused(corpus: Corpus) -> None:
    names = [cut.id for cut in corpus.cuts("test")]
    with pytest.raises(
        CorpusError, match="no utterance of split 'test' has a reference: all 3 are empty .*; expec"
    ):
        check_references(*opened(Changed(corpus, silenced(*names)), "asr"))


def test_pieces_are_fitted_without_the_texts_of_silent_utterances(corpus: Corpus) -> None:
    job, _, cuts = opened(Changed(corpus, silenced("s2-3")), "asr")
    task = job.kind(replace(job.config, units="sentencepiece", vocabulary=12))
    task.fit_units(cuts["train"])
    assert task.outputs == 13


def test_targets_longer_than_their_frames_are_left_out_of_training_and_named(
    corpus: Corpus, caplog: pytest.LogCaptureFixture
) -> None:
    job, task, cuts = opened(corpus, "phoneme")
    frames = {cut.id: task.frames_needed(cut) for cut in cuts["train"]}
    kept, left = learnable(job, Fold(task, cuts), lambda cut: frames[cut.id])
    assert (len(kept), left) == (18, {}), "as many frames as are needed suffice"
    frames["s0-3"] -= 1
    kept, left = learnable(job, Fold(task, cuts), lambda cut: frames[cut.id])
    assert (len(kept), left) == (17, {"train_too_long": 1})
    assert (
        "leaving out 1 of 18 training utterances with targets longer than their frames: s0-3"
        in caplog.text
    )
    with pytest.raises(CorpusError, match="every target of split 'train' is longer"):
        learnable(job, Fold(task, cuts), lambda cut: 1)  # noqa: ARG005


def test_frames_needed_are_those_that_ctc_needs(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, task, _ = opened(corpus, "phoneme")
    for phones in ("L OW", "L L OW", "L L L OW OW"):
        monkeypatch.setattr(task, "reference", lambda _, phones=phones: phones)
        target, needed = task.target(None), task.frames_needed(None)
        logits = torch.zeros(1, needed, 9)
        assert task.loss(logits, torch.tensor([needed]), [target]) > 0
        assert task.loss(logits[:, 1:], torch.tensor([needed - 1]), [target]) == 0, (
            "impossible: no loss, no gradient"
        )


def test_an_empty_hypothesis_is_scored_as_all_deletions(corpus: Corpus) -> None:
    _, task, cuts = opened(corpus, "asr")
    wer, cer = (each.score(task.answers(cuts["test"], [""] * 3)) for each in task.all_metrics)
    assert (wer.value, wer.deletions, cer.value) == (100.0, 9, 100.0)
    assert task.measure(cuts["test"], [""] * 3) == 100.0
    assert task.decode(torch.tensor([[[1.0, 0, 0]] * 4]), torch.tensor([4])) == [""], (
        "nothing but blanks"
    )
