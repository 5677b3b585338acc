"""Folds of pooled tasks: trained in the same updates, they are the folds trained in turn."""

import json
import logging
import os
import re
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from builders import identical
from fakes import Spectrum
from mt4ssl_bench import checkpoint, results
from mt4ssl_bench.corpora.prepare import prepare
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import text_of
from mt4ssl_bench.downstream.evaluate import evaluate
from mt4ssl_bench.downstream.task import TASKS
from mt4ssl_bench.downstream.training import fold_heads, frozen, held_means
from mt4ssl_bench.downstream.training.fold_heads import FoldHeads
from mt4ssl_bench.downstream.training.head_run import HeadRun
from mt4ssl_bench.downstream.training.held_means import HeldMeans, held
from mt4ssl_bench.downstream.training.sweep import Batch, Split, Splits, Sweep
from mt4ssl_bench.encoders import load
from mt4ssl_bench.features.file import FeatureSet
from mt4ssl_bench.results.record import Result
from mt4ssl_bench.shared_work import Unit
from mt4ssl_bench.training.fit import Fit

RECIPE = "about: moods\ntask: folded\nsteps: 12\nvalidate_every: 3\nsweep: [0.1, 0.01]\nbatch: 4\n"
FOLDS = 4


@pytest.fixture(autouse=True)
def task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS._addresses, "folded", "fakes:Folded")


@pytest.fixture(scope="module")
def moods(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Tones with moods in folds of unequal sizes; the training of the first lacks a mood."""
    rows: list[Row] = []
    for split in corpus.info.splits:
        for cut in corpus.cuts(split):
            mood = "glad" if "HIGH" in text_of(cut) else "calm"
            fold = min(len(rows) // 5, FOLDS - 1)
            mood = "odd" if len(rows) == 1 else mood
            path = Path(str(cut.recording.sources[0].source))
            labels = {"mood": mood, "fold": f"part {fold}"}
            rows.append(Row(id=cut.id, path=path, split=split, labels=labels))
    root = tmp_path_factory.mktemp("corpora") / "moods"
    return prepare(rows, root, source=root, name="moods", synthetic=True)


def in_turn(parts: Sequence[FoldHeads], *_: Any, **__: Any) -> list[Unit]:
    """Return units of folds that are trained one by one, as earlier revisions trained them."""
    return [unit for part in parts for unit in part.units(1)]


def evaluated(corpus: Corpus, out: Path, *keys: str) -> Result:
    out.mkdir(exist_ok=True)
    (out / "folded.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "load_upstream", lambda name, device: Spectrum(name))  # noqa: ARG005
        outcome = evaluate(
            ["good"], [str(out / "folded.yaml")], corpus.root, out=out, device="cpu", overrides=keys
        )
    assert not outcome.failures
    return outcome.results[0]


def models(out: Path) -> list[Mapping[str, Any]]:
    files = sorted((out / "runs").rglob("model.pt"))
    assert [file.parent.name for file in files] == [f"fold-{n + 1}" for n in range(FOLDS)]
    return [checkpoint.load(file) for file in files]


def assert_alike(out: Path, other: Path) -> None:
    (ours,), (theirs,) = results.load_all(out), results.load_all(other)
    assert (ours.metrics, ours.sweep, ours.folds) == (theirs.metrics, theirs.sweep, theirs.folds)
    answers = [
        results.load_hypotheses(results.record_path(record, folder))
        for record, folder in ((ours, out), (theirs, other))
    ]
    assert answers[0] == answers[1]
    for mine, its in zip(models(out), models(other), strict=True):
        assert mine["training"]["trials"] == its["training"]["trials"]
        assert mine["training"]["layer_norms"] == its["training"]["layer_norms"]
        torch.testing.assert_close(mine["head"], its["head"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "keys",
    [
        ["seeds=[1,2]", "accumulate=2"],
        ["layers=all"],
        ["crop_seconds=0.3", "crops=3", "patience=1", "steps=30"],
        ["store.limit_gb=0", "head.layer_norm=true"],
    ],
)
def test_folds_trained_together_are_the_folds_trained_in_turn(
    moods: Corpus, tmp_path: Path, keys: list[str]
) -> None:
    evaluated(moods, tmp_path / "together", *keys)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frozen, "units_of", in_turn)
        evaluated(moods, tmp_path / "turns", *keys)
    assert_alike(tmp_path / "together", tmp_path / "turns")


def test_folds_with_equal_classes_and_batches_are_one_problem(
    moods: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes, losses = set(), Sweep.losses

    def spy(sweep: Sweep, runs: Sequence[HeadRun], batch: Batch) -> Tensor:
        outputs = len(sweep.task.state()["moods"])  # type: ignore[arg-type]
        shapes.add((outputs, len(runs), *batch[1].shape[:-4], len(batch[2].flatten())))
        return losses(sweep, runs, batch)

    monkeypatch.setattr(Sweep, "losses", spy)
    evaluated(moods, tmp_path)
    assert {(2, 2, 4), (3, 2 * 3, 3, 3 * 4)} <= shapes, "the first fold's training has two classes"
    assert {shape[-1] for shape in shapes} >= {3}, "the short batch at the end of an epoch"


def test_a_fold_whose_heads_all_diverge_does_not_stop_the_others(
    moods: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated(moods, tmp_path / "well")
    backward = Fit._backward

    def spoil(self: Any, *arguments: Any) -> Any:
        parts = backward(self, *arguments)
        for group in self.optimizer.param_groups[2:4] if self.state.step == 7 else ():
            group["params"][1].grad[0] = torch.nan
        return parts

    monkeypatch.setattr(Fit, "_backward", spoil)
    evaluated(moods, tmp_path / "ill")
    for number, (well, ill) in enumerate(
        zip(models(tmp_path / "well"), models(tmp_path / "ill"), strict=True)
    ):
        if number == 1:
            assert {trial["steps"] for trial in ill["training"]["trials"]} <= {3, 6}
            continue
        assert ill["training"]["trials"] == well["training"]["trials"]
        torch.testing.assert_close(ill["head"], well["head"], atol=1e-5, rtol=0)


def test_a_training_that_is_stopped_goes_on_where_it_was(
    moods: Corpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = ("crop_seconds=0.3", "crops=3")
    evaluated(moods, tmp_path / "whole", *keys)
    stopped(moods, tmp_path / "parts", *keys, after=8)  # fold by fold, 4 validations at update 6
    with caplog.at_level(logging.INFO):
        evaluated(moods, tmp_path / "parts", *keys)
    assert re.findall("continuing from update .*", caplog.text) == [
        "continuing from update 6 of 12"
    ]
    assert_alike(tmp_path / "parts", tmp_path / "whole")
    assert not list((tmp_path / "parts").rglob("checkpoint.pt"))
    assert not list((tmp_path / "parts").rglob("heads"))


def test_a_fold_that_an_earlier_revision_has_begun_goes_on_by_itself(
    moods: Corpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    evaluated(moods, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frozen, "units_of", in_turn)
        stopped(moods, tmp_path / "parts", after=4 + 2)  # in the second fold, at update 6
    begun = [path.parent.name for path in (tmp_path / "parts").rglob("checkpoint.pt")]
    assert "fold-2" in begun, "a slow machine also writes one of the first fold"
    with caplog.at_level(logging.INFO), pytest.MonkeyPatch.context() as patch:
        trained = titles(patch)
        evaluated(moods, tmp_path / "parts")
    assert trained == [["part 2", "part 3"], ["part 1"]]
    assert re.findall("continuing from update .*", caplog.text) == [
        "continuing from update 6 of 12"
    ]
    assert_alike(tmp_path / "parts", tmp_path / "whole")
    assert not list((tmp_path / "parts").rglob("checkpoint.pt"))


def test_a_fold_that_is_finished_is_not_trained_again(
    moods: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated(moods, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    for record in (tmp_path / "parts").glob("folded-*.json"):
        record.unlink()
    for number in (2, 4):
        next((tmp_path / "parts").rglob(f"fold-{number}/model.pt")).unlink()
    trained = titles(monkeypatch)
    evaluated(moods, tmp_path / "parts")
    assert trained == [["part 1", "part 3"]]
    assert_alike(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.parametrize("late", [False, True])
def test_heads_of_a_kill_between_their_files_end_with_the_bits_of_all(
    moods: Corpus, tmp_path: Path, caplog: pytest.LogCaptureFixture, *, late: bool
) -> None:
    evaluated(moods, tmp_path / "whole")
    if late:
        stopped(moods, tmp_path / "parts", after=8)
    save, saved = fold_heads.save_run, list[Path]()

    def killed(run: HeadRun, file: Path, *, seconds: float) -> None:
        if len(saved) == 3:  # all heads of a fold, and one of the next
            raise KeyboardInterrupt
        saved.append(file)
        save(run, file, seconds=seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fold_heads, "save_run", killed)
        with pytest.raises(KeyboardInterrupt):
            evaluated(moods, tmp_path / "parts")
    assert all(file.exists() for file in saved)
    caplog.clear()
    with caplog.at_level(logging.INFO), pytest.MonkeyPatch.context() as patch:
        trained = titles(patch)
        evaluated(moods, tmp_path / "parts")
    assert trained == [[f"part {fold}" for fold in range(FOLDS)]]
    assert not late or "continuing from update" in caplog.text
    assert "not continued" not in caplog.text
    for ours, theirs in zip(models(tmp_path / "parts"), models(tmp_path / "whole"), strict=True):
        assert identical(ours["head"], theirs["head"])
        assert ours["training"]["trials"] == theirs["training"]["trials"]


def test_what_heads_depend_on_is_digested_once(
    moods: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digested: list[Any] = []

    def dumps(meta: Any, **keys: Any) -> str:
        digested.append(meta)
        return json.dumps(meta, **keys)

    monkeypatch.setattr(fold_heads, "json", SimpleNamespace(dumps=dumps))
    evaluated(moods, tmp_path)
    assert len(digested) == FOLDS


def test_means_that_are_held_are_the_stored_ones(moods: Corpus, tmp_path: Path) -> None:
    made: list[tuple[FeatureSet, FeatureSet, list[str]]] = []

    def spy(features: FeatureSet, names: list[str]) -> FeatureSet:
        made.append((features, held(features, names), names))
        return made[-1][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frozen, "held", spy)
        evaluated(moods, tmp_path, "crop_seconds=0.2", "crops=3")
    ((stored, means, names),) = made
    assert isinstance(means, HeldMeans)
    names, crops = names[::-5], [n % stored.count(name) for n, name in enumerate(names[::-5])]
    assert max(crops) == 2
    for ours, theirs in zip(means.batch(names, crops), stored.batch(names, crops), strict=True):
        assert ours.equal(theirs)
        assert ours.is_contiguous()
    assert means.batch(names)[0].equal(stored.batch(names)[0]), "all crops, for their norms"
    assert means.identity == stored.identity
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held_means, "LIMIT", 100)
        assert held(stored, names) is stored


def stopped(corpus: Corpus, out: Path, *keys: str, after: int) -> None:
    """Evaluate, and ask for a stop as Ctrl-C does when so many validations were made."""
    validate, count = Sweep.validate, 0

    def interrupt(sweep: Sweep, valid: Split, step: int) -> dict[str, float]:
        nonlocal count
        count += 1
        if count == after:
            os.kill(os.getpid(), signal.SIGINT)
        return validate(sweep, valid, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sweep, "validate", interrupt)
        with pytest.raises(KeyboardInterrupt):
            evaluated(corpus, out, *keys)


def titles(patch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return a list that gets the names of the folds of each training."""
    trained: list[list[str]] = []
    train = fold_heads.train_sweeps

    def spy(sweeps: Sequence[Sweep], splits: Sequence[Splits], *rest: Any, **keys: Any) -> float:
        trained.append([split.name.removeprefix("fold ").rstrip(", ") for split in splits])
        return train(sweeps, splits, *rest, **keys)

    patch.setattr(fold_heads, "train_sweeps", spy)
    return trained
