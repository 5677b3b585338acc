"""Speaker verification: trials, crops drawn anew in each epoch, silence, and what cannot be scored."""

import copy
import itertools
import json
import logging
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import roc_curve
from torch import Tensor, nn

from builders import RATE, identical, rendered, run, speak
from fakes import Moments
from mt4ssl_bench import results
from mt4ssl_bench.corpora.prepare import prepare
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.effects import apply
from mt4ssl_bench.downstream.dry_run import estimate
from mt4ssl_bench.downstream.evaluate import evaluate
from mt4ssl_bench.downstream.heads.trials import make_trials, read_trials, usable_trials
from mt4ssl_bench.downstream.plan import load_config, plan
from mt4ssl_bench.downstream.tasks.verification import Verification
from mt4ssl_bench.downstream.training import head_run
from mt4ssl_bench.downstream.training.fold_heads import FoldHeads
from mt4ssl_bench.downstream.training.head_run import HeadRun
from mt4ssl_bench.downstream.training.readings import readings
from mt4ssl_bench.downstream.training.sweep import Split, Sweep
from mt4ssl_bench.encoders import load
from mt4ssl_bench.encoders.protocol import Features
from mt4ssl_bench.errors import ConfigError, CorpusError
from mt4ssl_bench.features.crops import FreshCrop
from mt4ssl_bench.features.forward_pass import Pass
from mt4ssl_bench.features.live import LiveFeatures
from mt4ssl_bench.features.store import FeatureStore, StoreConfig
from mt4ssl_bench.results.answers import by_seed
from mt4ssl_bench.results.leaderboard import Leaderboard
from mt4ssl_bench.results.metrics.trials import EER
from mt4ssl_bench.results.show import report

SPEAKERS = {"train": 4, "valid": 3, "test": 3}
EACH = 5
SMALL = ("head.projection=12", "head.pooled=16", "sweep=1e-2,1e-3", "min_seconds=0.5", "batch=4")
LIVE = (*SMALL, "crop_seconds=0.6", "steps=14", "validate_every=7")


def trial_rows(split: str) -> list[dict[str, str]]:
    """All pairs of a split's utterances, as a list of the corpus."""
    names = [f"{split}{s}-{u}" for s in range(SPEAKERS[split]) for u in range(EACH)]
    return [
        {"label": str(int(a[:-2] == b[:-2])), "enrol_id": a, "test_id": b}
        for a, b in itertools.combinations(names, 2)
    ]


def spoken(root: Path, trials: list[dict[str, str]], silent: tuple[str, ...] = ()) -> Corpus:
    """Prepare a corpus of tones whose splits share no speaker; some utterances are silent."""
    rng, rows, number = np.random.default_rng(0), [], 0
    for split, count in SPEAKERS.items():
        for s in range(count):
            for u in range(EACH):
                name = f"{split}{s}-{u}"
                samples = speak(["LOW", "HIGH", "MID"][u % 3 :] + ["LOW"] * 2, number, rng)
                path = root / "audio" / f"{name}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, samples * (name not in silent), RATE)
                rows.append(Row(id=name, path=path, speaker=f"{split}{s}", split=split))
            number += 1
    return prepare(
        rows, root / "corpus", source=root, name="pairs", synthetic=True, lists={"trials": trials}
    )


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return spoken(tmp_path_factory.mktemp("pairs"), trial_rows("test"))


def evaluated(
    corpus: Corpus, out: Path, model: Moments, patch: pytest.MonkeyPatch, *keys: str
) -> Any:
    patch.setattr(load, "load_upstream", lambda name, **_: model)  # noqa: ARG005
    return evaluate(["mine"], ["ASV"], corpus.root, out=out, overrides=keys, device="cpu")


def test_the_full_recipe_has_the_numbers_of_superb() -> None:
    config = load_config("verification")
    assert (config.steps, config.batch, config.accumulate, config.clip_norm) == (
        200_000,
        10,
        5,
        1000,
    )
    assert (config.head.projection, config.head.pooled) == (512, 1500)
    assert (config.scale, config.margin, config.min_seconds) == (30, 0.4, 2)
    optim = Verification(config).optim()
    assert (optim.weight_decay, optim.betas, optim.eps) == (0.01, (0.9, 0.999), 1e-8)
    assert (optim.schedule, optim.clip_norm) == ("constant", 1000)
    assert config.crops_of("train") == FreshCrop(seconds=8)
    assert config.crops_of("valid") is config.crops_of("test") is None
    assert [effect.key for effect in Verification.effects] == ["gain-3.0dB", "silence-0.1s-60dB"]


def test_fine_tuning_is_refused(pairs: Corpus) -> None:
    with pytest.raises(ConfigError, match="trains heads on frozen features only; expected mode=f"):
        plan("ASV", pairs, ["mode=finetune"])


# ---- crops that are drawn anew ---------------------------------------------------------------


def live(corpus: Corpus, seconds: float = 0.6) -> tuple[LiveFeatures, list[Any]]:
    cuts = list(corpus.cuts("train"))
    work = Pass(Moments(), FreshCrop(seconds=seconds), Verification.effects)
    features = FeatureStore(Path("/nowhere"), StoreConfig(precision="fp32")).features(
        work, "d", "train", cuts
    )
    assert isinstance(features, LiveFeatures)
    return features, cuts


def test_each_epoch_has_other_crops_whatever_the_batch(pairs: Corpus) -> None:
    features, cuts = live(pairs)
    names = [cut.id for cut in cuts]
    first, lengths = features.at(3).batch(names)
    assert set(lengths.tolist()) == {30}
    again, _ = features.at(3).batch(names[4:6])
    assert torch.equal(first[:, 4:6], again)
    other, _ = features.at(4).batch(names)
    moved = (first != other).flatten(2).any(2).any(0)
    assert moved.float().mean() > 0.8


def test_crops_are_of_the_audio_after_its_effects(pairs: Corpus) -> None:
    features, cuts = live(pairs)
    starts = set()
    for cut in cuts:
        x = torch.from_numpy(features.at(1).get(cut.id))[0]  # (T, 3)
        samples = torch.from_numpy(apply(Verification.effects, audio.read(cut)).copy())
        windows = samples.unfold(0, 9600, 1).unflatten(1, (30, 320))  # every crop there could be
        places = (windows.mean(-1) - x[:, 0]).abs().amax(1).lt(1e-6).nonzero().flatten()
        assert len(places) == 1, cut.id
        starts.add(int(places[0]) * 10 // len(windows))
    assert len(starts) > 5, "they begin anywhere"
    whole, cuts = live(pairs, seconds=60)
    samples = apply(Verification.effects, audio.read(cuts[0]))
    assert whole.get(cuts[0].id).shape[1] == len(samples) // 320


class Stopped(Moments):
    """Asks for a stop at a pass, as Ctrl-C does."""

    def __init__(self, stop_at: int) -> None:
        super().__init__()
        self.stop_at = stop_at

    def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
        features = super().extract(waveforms, lengths)
        if self.calls == self.stop_at:
            signal.raise_signal(signal.SIGINT)
        return features


def model_of(out: Path) -> Any:
    (path,) = out.glob("runs/*/model.pt")
    stored = torch.load(path, weights_only=True)
    del stored["training"]["seconds"]
    return stored


def test_the_upstream_runs_once_per_batch_for_all_rates_and_a_resumed_row_has_the_same_bits(
    pairs: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Moments()
    (record,) = evaluated(pairs, tmp_path / "a", whole, monkeypatch, *LIVE).results
    stored = 4  # batches of one pass over valid and one over test
    normed = 3  # batches for the norms of the hidden states
    assert whole.calls == 14 + stored + normed
    assert whole.utterances == 14 * 4 + EACH * sum(SPEAKERS.values())
    assert not list((tmp_path / "a/store").glob("*/train.*")), "no feature of training is stored"
    with pytest.raises(KeyboardInterrupt):
        evaluated(pairs, tmp_path / "b", Stopped(stored + 9), monkeypatch, *LIVE)
    rest = Moments()
    (again,) = evaluated(pairs, tmp_path / "b", rest, monkeypatch, *LIVE).results
    assert rest.calls == 14 - 9 + normed
    assert again.metrics == record.metrics
    assert identical(model_of(tmp_path / "a"), model_of(tmp_path / "b"))
    looks = model_of(tmp_path / "b")["training"]["looks"]
    assert [list(each) for each in looks] == [[7, 14], [7, 14]], "of each rate"
    assert answers_of(tmp_path / "a") == answers_of(tmp_path / "b")


def test_a_dry_run_counts_the_crops_of_every_epoch_and_stores_none(
    pairs: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "load_upstream", lambda name, **_: Moments())  # noqa: ARG005
    made = [
        estimate(["mine"], ["ASV"], pairs.root, out=tmp_path, overrides=[*LIVE, key], device="cpu")
        for key in ("steps=14", "steps=28")
    ]
    more = (made[1].passes.hours - made[0].passes.hours) * 3600
    assert more == pytest.approx(14 * 4 * 0.6, rel=0.01)
    assert made[0].passes.bytes == made[1].passes.bytes


# ---- SUPERB's best of ten checkpoints on test ----------------------------------------------------

STORED = (*SMALL, "crop_seconds=0", "store.precision=fp32")
TEN = (*STORED, "steps=30", "validate_every=2")


def answers_of(out: Path) -> list[Any]:
    (file,) = out.glob("*.json")
    return list(results.load_hypotheses(file))


def scores_of(head: nn.Module, corpus: Corpus) -> list[float]:
    """The cosines of a head on test, from the audio and the list of the corpus."""
    vectors = {}
    for cut in corpus.cuts("test"):
        samples = torch.from_numpy(apply(Verification.effects, audio.read(cut)).copy())[None]
        features = Moments().extract(samples, torch.tensor([samples.shape[1]]))
        vectors[cut.id] = head.eval()(features.layers, features.lengths)[0][0].detach()
    pairs = [(vectors[row["enrol_id"]], vectors[row["test_id"]]) for row in trial_rows("test")]
    return [float(torch.cosine_similarity(a, b, dim=0)) for a, b in pairs]


def error_of(scores: list[float]) -> float:
    """The EER of the trials of test by scikit-learn."""
    false, true, _ = roc_curve([row["label"] == "1" for row in trial_rows("test")], scores)
    return float(100 * brentq(lambda x: 1 - x - interp1d(false, true)(x), 0, 1))


def test_the_number_by_superbs_rule_is_the_best_of_ten_checkpoints_and_never_ranked(
    pairs: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads: dict[tuple[float, int], nn.Module] = {}
    look = HeadRun.look

    def kept(run: HeadRun, answers: Any, step: int) -> None:
        heads[run.lr, step] = copy.deepcopy(run.head)
        look(run, answers, step)

    monkeypatch.setattr(HeadRun, "look", kept)
    model = Moments()
    (record,) = evaluated(pairs, tmp_path, model, monkeypatch, *TEN).results
    assert model.utterances == EACH * sum(SPEAKERS.values()), "each utterance once"
    steps = [4, 6, 10, 12, 16, 18, 22, 24, 28, 30]  # of 15 validations, those that enter a tenth
    assert list(heads) == [(lr, step) for step in steps for lr in (1e-2, 1e-3)]
    rate = next(trial["lr"] for trial in record.sweep if trial["chosen"])
    variants = [answer["variants"] for answer in answers_of(tmp_path)]
    assert all(list(each) == [f"update {step}" for step in steps] for each in variants)
    errors = []
    for step in steps:
        scores = [float(each[f"update {step}"]) for each in variants]
        assert scores == pytest.approx(scores_of(heads[rate, step], pairs), abs=2e-6)
        errors.append(error_of(scores))
    rule = record.metrics["eer_by_rule"]
    assert rule.value == pytest.approx(min(errors), abs=1e-6)
    assert min(errors) < max(errors)
    assert not rule.ranked
    (table,) = Leaderboard.from_folder(tmp_path).tables
    assert [column.metric for column in table.columns] == ["eer", "mindcf"]
    (file,) = tmp_path.glob("*.json")
    assert "EER by SUPERB's rule" in rendered(report(file))


def test_each_seed_and_layer_has_its_looks_and_a_finished_training_still_has_them(
    pairs: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = (*STORED, "steps=6", "validate_every=3", "seeds=[1,2]", "layers=all")
    (record,) = evaluated(pairs, tmp_path, Moments(), monkeypatch, *keys).results
    rule, answers = record.metrics["eer_by_rule"], answers_of(tmp_path)
    values = {
        seed: min(
            EER.value([{**a, "hypothesis": a["variants"][way]} for a in own])
            for way in ("update 3", "update 6")
        )
        for seed, own in by_seed(answers).items()
    }
    assert rule.by_seed == pytest.approx(values)
    curve = record.layer_scores["eer_by_rule"]
    assert [row["layer"] for row in curve] == [0, 1]
    assert curve[record.layer]["value"] == pytest.approx(rule.value)
    (file,) = tmp_path.glob("*.json")
    file.unlink()
    idle = Moments()
    (again,) = evaluated(pairs, tmp_path, idle, monkeypatch, *keys).results
    assert (again.metrics, again.layer_scores) == (record.metrics, record.layer_scores)
    assert idle.calls == 0
    assert answers_of(tmp_path) == answers


def test_heads_that_are_trained_in_slices_have_the_same_looks(
    pairs: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = (*STORED, "steps=4", "validate_every=2")
    evaluated(pairs, tmp_path / "whole", Moments(), monkeypatch, *keys)
    units = FoldHeads.units
    monkeypatch.setattr(FoldHeads, "units", lambda part, _: units(part, 2))  # of two processes
    evaluated(pairs, tmp_path / "slices", Moments(), monkeypatch, *keys)
    whole, slices = (model_of(tmp_path / name)["training"]["looks"] for name in ("whole", "slices"))
    assert [list(each) for each in slices] == [[2, 4], [2, 4]]
    for ours, theirs in zip(whole, slices, strict=True):
        assert all(scores.allclose(theirs[step], atol=2e-6) for step, scores in ours.items())


def test_a_look_at_a_diverged_head_is_left_out(
    pairs: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Sweep.look

    def spoiled(sweep: Sweep, test: Split, step: int) -> None:
        for weights in sweep.runs[0].head.parameters() if step == 4 else ():
            weights.data.fill_(torch.nan)
        look(sweep, test, step)

    monkeypatch.setattr(Sweep, "look", spoiled)
    keys = (*STORED, "steps=6", "validate_every=2")
    (record,) = evaluated(pairs, tmp_path, Moments(), monkeypatch, *keys).results
    looks = model_of(tmp_path)["training"]["looks"]
    assert [list(each) for each in looks] == [[2], [2, 4, 6]]
    assert all(scores.isfinite().all() for each in looks for scores in each.values())
    assert record.metrics["eer_by_rule"].value <= 50


def test_trainings_of_earlier_revisions_have_no_number_by_superbs_rule(
    pairs: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = (*STORED, "steps=4", "validate_every=2")
    (record,) = evaluated(pairs, tmp_path, Moments(), monkeypatch, *keys).results
    (file,) = tmp_path.glob("runs/*/model.pt")
    stored = torch.load(file, weights_only=True)
    del stored["training"]["looks"]
    torch.save(stored, file)
    (path,) = tmp_path.glob("*.json")
    path.unlink()
    (again,) = evaluated(pairs, tmp_path, Moments(), monkeypatch, *keys).results
    assert again.metrics == {name: record.metrics[name] for name in ("eer", "mindcf")}
    run = HeadRun(1e-2, 1, nn.Linear(1, 1))
    (row,) = head_run.stored([run])
    del row["looks"]
    head_run.restore([run], {"trials": [row]})
    assert run.looks == {}


def test_looks_count_as_readings_of_test(pairs: Corpus) -> None:
    for keys, often in ((("steps=600", "validate_every=100"), 1 + 6), (("steps=200",), 1 + 2)):
        assert readings(plan("ASV", pairs, keys), "test", 15) == often
    assert readings(plan("ASV", pairs, ["steps=600", "validate_every=1"]), "test", 15) == 1 + 10
    assert readings(plan("speaker", pairs), "test", 15) == 1


# ---- trials ------------------------------------------------------------------------------------


def test_a_record_holds_every_trial_with_its_score(
    pairs: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = (*SMALL, "crop_seconds=0", "steps=20", "validate_every=10")
    (record,) = evaluated(pairs, tmp_path, Moments(), monkeypatch, *keys).results
    (file,) = tmp_path.glob("*.json")
    answers = results.load_hypotheses(file)
    wanted = {f"{row['enrol_id']} {row['test_id']}": row["label"] for row in trial_rows("test")}
    assert {a["id"]: str(int(a["reference"] == "target")) for a in answers} == wanted
    scores = [float(answer["hypothesis"]) for answer in answers]
    false, true, _ = roc_curve([a["reference"] == "target" for a in answers], scores)
    expected = 100 * brentq(lambda x: 1 - x - interp1d(false, true)(x), 0, 1)
    score = record.metrics["eer"]
    assert score.value == pytest.approx(expected, abs=1e-6)
    assert (score.over, list(record.metrics)) == ("speakers", ["eer", "mindcf", "eer_by_rule"])
    made = EACH * (EACH - 1) // 2 * SPEAKERS["valid"]  # all target pairs, and as many others
    assert (record.counts["test_trials"], record.counts["valid_trials"]) == (len(wanted), 2 * made)
    head = torch.load(next(tmp_path.glob("runs/*/model.pt")), weights_only=True)["head"]
    assert head["speakers"].shape == (12, SPEAKERS["train"])
    assert len(list((tmp_path / "store").glob("*/train.*"))) == 2, "whole utterances are stored"


def test_made_trials_are_balanced_different_and_always_the_same() -> None:
    speakers = {f"u{n}": f"s{n % 7}" for n in range(70)}
    trials = make_trials(speakers, 400)
    assert trials == make_trials(dict(reversed(speakers.items())), 400)
    assert len({frozenset(each[1:]) for each in trials}) == 400
    assert all(each.target == (speakers[each.enrol] == speakers[each.test]) for each in trials)
    assert sum(each.target for each in trials) == 200
    for kind in (True, False):
        used = Counter(n for each in trials if each.target == kind for n in each[1:])
        assert len(used) == 70
        assert max(used.values()) <= 2 * min(used.values()) + 4
    every = make_trials(speakers, 10**6)
    assert sum(each.target for each in every) == 7 * 45
    assert len(every) == 2 * 7 * 45
    assert make_trials({"a": "x"}, 10) == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"label": "1", "a_id": "x"}],
            "no column enrol_id; expected label, enrol_id, test_id, has",
        ),
        (
            [{"label": "yes", "enrol_id": "x", "test_id": "y"}],
            "row 1: label 'yes'; expected 1 or ta",
        ),
    ],
)
def test_a_list_that_holds_no_trials_is_refused(rows: list[dict[str, str]], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        read_trials(rows, "list 'trials'")


SPOKE = {"a1": "a", "a2": "a", "b1": "b"}


@pytest.mark.parametrize(
    ("trials", "message"),
    [
        ([("1", "a1", "a2")], "1 target trials and 0 others; expected both kinds"),
        ([("0", "a1", "b1")], "0 target trials and 1 others"),
        ([("1", "a1", "gone")], "0 target trials and 0 others"),
        (
            [("1", "a1", "b1")],
            "'a1' and 'b1' are a target trial, and their speakers are 'a' and 'b'",
        ),
        ([("0", "a1", "a2")], "'a1' and 'a2' are a nontarget trial"),
        ([("1", "a1", "a1")], "'a1' and 'a1' are a target trial"),
    ],
)
def test_trials_that_cannot_be_scored_are_refused(
    trials: list[tuple[str, str, str]], message: str
) -> None:
    rows = [dict(zip(("label", "enrol_id", "test_id"), each, strict=True)) for each in trials]
    with pytest.raises(CorpusError, match=message):
        usable_trials(read_trials(rows, "here"), SPOKE, "here", heard=())


def test_trials_of_other_splits_are_left_out_and_speakers_of_training_are_named(
    pairs: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    more = [{"label": "1", "enrol_id": "train0-0", "test_id": "test0-0"}]
    corpus = spoken(tmp_path, [*trial_rows("test"), *more, *more])
    keys = (*SMALL, "crop_seconds=0", "steps=2", "validate_every=2")
    with caplog.at_level(logging.WARNING):
        (record,) = evaluated(corpus, tmp_path / "out", Moments(), monkeypatch, *keys).results
    assert record.counts["test_trials_left_out"] == 2
    about = "2 of 107 trials left out, their utterances are not in the split: train0-0"
    assert f"task 'verification', list 'trials': {about}" in caplog.text
    assert "are in training" not in caplog.text
    trials = read_trials(trial_rows("test"), "here")
    known = {cut.id: cut.id[:-2] for cut in pairs.cuts("test")}
    usable_trials(trials, known, "here", heard=["test1", "train0"])
    assert (
        "here: 1 speakers are in training, too, which makes their trials easier: test1"
        in caplog.text
    )


def test_an_utterance_of_which_silence_leaves_nothing_is_not_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = spoken(tmp_path, trial_rows("test"), silent=("test1-2", "valid0-0", "train3-1"))
    keys = (*SMALL, "crop_seconds=0", "steps=4", "validate_every=2")
    with caplog.at_level(logging.WARNING):
        (record,) = evaluated(corpus, tmp_path / "out", Moments(), monkeypatch, *keys).results
    lost = EACH * SPEAKERS["test"] - 1  # pairs with the silent one
    assert record.counts["trials_without_frames"] == lost
    assert record.counts["train_too_short"] == 1
    assert "leaving out 1 of 20 training utterances too short: train3-1" in caplog.text
    assert (
        f"{lost} trials not scored: without pauses, fewer than 16 frames are left of 1 utt"
        in caplog.text
    )
    assert caplog.text.count("trials not scored") == 2, "of valid and of test, once each"
    (file,) = (tmp_path / "out").glob("*.json")
    answers = results.load_hypotheses(file)
    assert len(answers) == len(trial_rows("test")) - lost
    assert not any("test1-2" in answer["id"] for answer in answers)


def test_a_corpus_whose_training_is_too_short_fails_in_one_line(
    pairs: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = (*SMALL, "crop_seconds=0", "steps=2", "min_seconds=30")
    outcome = evaluated(pairs, tmp_path, Moments(), monkeypatch, *keys)
    (failure,) = outcome.failures
    assert "task 'verification': all 20 training utterances are too short" in failure
    assert not list(tmp_path.glob("*.json"))


def test_a_corpus_without_trials_or_with_one_speaker_is_refused(
    corpus: Corpus, pairs: Corpus, tmp_path: Path
) -> None:
    with pytest.raises(
        CorpusError, match="cannot be used for task 'verification': it has no list:tr"
    ):
        plan("ASV", corpus)
    rows = [
        Row(id=cut.id, path=Path(str(cut.recording.sources[0].source)), speaker="one", split=split)
        for split in SPEAKERS
        for cut in pairs.cuts(split)
    ]
    lists = {"trials": trial_rows("test")}
    one = prepare(rows, tmp_path / "one", source=tmp_path, name="one", synthetic=True, lists=lists)
    with pytest.raises(
        CorpusError, match="it needs two speakers, and has only one in the utterances"
    ):
        plan("ASV", one)


@pytest.fixture(scope="module")
def manifests(pairs: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("manifests")
    lines = ["id\tpath\tspeaker\tsplit"]
    for split in SPEAKERS:
        lines += [
            f"{cut.id}\t{cut.recording.sources[0].source}\t{cut.id[:-2]}\t{split}"
            for cut in pairs.cuts(split)
        ]
    (folder / "manifest.tsv").write_text("\n".join(lines) + "\n")
    for name, rows in (("trials", trial_rows("test")), ("valid", trial_rows("valid"))):
        lines = ["label\tenrol_id\ttest_id", *("\t".join(row.values()) for row in rows)]
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    yield folder
    shutil.rmtree(folder)


@pytest.mark.long
def test_two_models_are_verified_and_compared_through_the_command_line(
    manifests: Path, tmp_path: Path
) -> None:
    lists = [
        "--list",
        f"trials={manifests}/trials.tsv",
        "--list",
        f"valid_trials={manifests}/valid.tsv",
    ]
    corpus, out = tmp_path / "corpus", tmp_path / "out"
    table = ["prepare", "table", manifests / "manifest.tsv"]
    done = run(*table, *lists, "--out", corpus)
    assert done.returncode == 0, done.stderr
    keys = [*SMALL, "crop_seconds=0", "steps=6", "validate_every=3"]
    shared = ["--corpus", corpus, "--out", out, *keys]
    done = run("evaluate", "fbank", "fbank_no_cmvn", "--task", "asv", *shared)
    assert done.returncode == 0, done.stderr
    assert "task verification: recipe verification_tiny for 0.01 h" in done.stderr
    assert "verification EER % ↓" in done.stdout
    assert "verification minDCF ↓" in done.stdout
    for file in out.glob("*.json"):
        counts = json.loads(file.read_text())["counts"]
        assert counts["valid_trials"] == len(trial_rows("valid")), "of the list"
    done = run("compare", "fbank", "fbank_no_cmvn", "--task", "ASV", "--results", out)
    assert done.returncode == 0, done.stderr
    assert "3 speakers" in done.stdout
    (manifests / "wrong.tsv").write_text("label\tenrol_id\ttest_id\n1\ttest0-0\tnobody\n")
    done = run(*table, "--list", f"trials={manifests}/wrong.tsv", "--out", tmp_path / "wrong")
    assert done.returncode == 2
    assert "list 'trials', row 1: test_id names no utterance of the corpus: 'nobody'" in done.stderr
