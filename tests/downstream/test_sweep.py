"""The sweep: heads trained together are the heads trained alone, and the best on valid is the one kept."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fakes import Noise
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.downstream.heads.ctc import CTCTask
from mt4ssl_bench.downstream.heads.recurrent import RecurrentHead
from mt4ssl_bench.downstream.job import ROLES
from mt4ssl_bench.downstream.plan import plan
from mt4ssl_bench.downstream.tasks.speaker import Speaker
from mt4ssl_bench.downstream.training.sweep import HeadRun, Split, Sweep
from mt4ssl_bench.errors import ConfigError, TrainingError
from mt4ssl_bench.training.fit import Fit

DATA = Path(__file__).parents[1] / "fixtures"
LAYERS, DIM = Noise.layers, Noise.dim


def sweep(corpus: Corpus, name: str, *keys: str) -> tuple[Sweep, HeadRun]:
    job = plan(str(DATA / f"toy_{name}.yaml"), corpus, ["steps=12", "validate_every=3", *keys])
    task = job.kind(job.config)
    cuts: dict[str, list[Any]] = {role: job.cuts(role) for role in ROLES}
    task.fit_units(cuts["train"])
    splits = [
        Split(cuts[r], Noise(pooled=task.pooled), pooled=task.pooled, device="cpu") for r in ROLES
    ]  # type: ignore[arg-type]
    made = Sweep(task, LAYERS, DIM, device="cpu")
    return made, made.run(splits[0], splits[1])


@pytest.mark.parametrize("name", ["phoneme", "speaker", "asr"])
def test_heads_trained_together_are_the_heads_trained_alone(corpus: Corpus, name: str) -> None:
    rates = [1e-1, 1e-2, 1e-3]
    extra = ["head.dropout=0.2", "head.spec_augment=true"] if name == "asr" else []
    together, _ = sweep(corpus, name, f"sweep={rates}", "clip_norm=0.5", "accumulate=2", *extra)
    for trial, lr in zip(together.runs, rates, strict=True):
        alone, _ = sweep(corpus, name, f"lr={lr}", "clip_norm=0.5", "accumulate=2", *extra)
        assert [other.lr for other in alone.runs] == [lr]
        assert alone.runs[0].best == trial.best
        assert alone.runs[0].state is not None
        assert trial.state is not None
        for key, value in alone.runs[0].state.items():
            torch.testing.assert_close(value, trial.state[key], atol=2e-5, rtol=1e-4)


def test_a_task_may_have_another_optimizer(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, _ = sweep(corpus, "speaker", "sweep=[0.1, 0.01]", "steps=1")
    start, _ = sweep(corpus, "speaker", "lr=1e-12", "steps=1")
    adam = Speaker.optim
    monkeypatch.setattr(Speaker, "optim", lambda task: replace(adam(task), weight_decay=0.5))
    decayed, _ = sweep(corpus, "speaker", "sweep=[0.1, 0.01]", "steps=1")
    initial = start.runs[0].head.state_dict()
    for run, other in zip(decayed.runs, plain.runs, strict=True):  # AdamW: p - lr * decay * p
        for name, value in other.head.state_dict().items():
            expected = value - 0.5 * run.lr * initial[name]
            torch.testing.assert_close(run.head.state_dict()[name], expected)


def test_the_gradient_of_each_head_is_clipped_by_its_own_norm(corpus: Corpus) -> None:
    clipped, _ = sweep(corpus, "phoneme", "sweep=[0.1, 0.01]", "clip_norm=1e-9", "steps=1")
    free, _ = sweep(corpus, "phoneme", "sweep=[0.1, 0.01]", "clip_norm=0", "steps=1")
    for small, large in zip(clipped.runs, free.runs, strict=True):
        start, _ = sweep(corpus, "phoneme", "lr=1e-12", "steps=1")
        before = start.runs[0].head.state_dict()["output.bias"]
        moved = [
            (trial.head.state_dict()["output.bias"] - before).norm() for trial in (small, large)
        ]
        assert (
            moved[0] < 0.2 * moved[1]
        )  # Adam's epsilon weighs against a gradient of 1e-9, not against a free one


@pytest.mark.parametrize("name", ["phoneme", "asr"])
@pytest.mark.parametrize("clip", ["clip_norm=0", "clip_norm=1"])
def test_a_head_whose_gradient_is_not_finite_stays_and_the_others_go_on(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, name: str, clip: str
) -> None:
    rates = "sweep=[1e-2, 1e-3]"
    well, _ = sweep(corpus, name, rates, clip)
    short, _ = sweep(corpus, name, rates, clip, "steps=6")
    start = Fit._backward

    def spoil(self: Any, *arguments: Any) -> Any:
        parts = start(self, *arguments)
        if self.state.step == 6:
            self.optimizer.param_groups[0]["params"][-1].grad[0] = float("nan")
        return parts

    monkeypatch.setattr(Fit, "_backward", spoil)
    ill, chosen = sweep(corpus, name, rates, clip)
    assert [trial.diverged for trial in ill.runs] == [True, False]
    assert ill.runs[0].step <= 6
    last = short.runs[0].head.state_dict() if short.runs[0] is not chosen else {}
    for key, value in ill.runs[0].head.state_dict().items():
        assert value.isfinite().all(), key
        if ill.runs[0] is not chosen and key in last:
            assert value.equal(last[key])
    assert ill.runs[1].best == well.runs[1].best


def test_a_head_whose_logits_are_not_finite_on_valid_has_diverged(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Sweep.run

    def spoil(self: Sweep, *arguments: Any) -> Any:
        self.runs[1].head.register_forward_hook(
            lambda head, _, out: out if head.training else (out[0] * float("inf"), out[1])
        )
        return run(self, *arguments)

    monkeypatch.setattr(Sweep, "run", spoil)
    made, chosen = sweep(corpus, "asr", "sweep=[1e-2, 1e-3]")
    assert [trial.diverged for trial in made.runs] == [False, True]
    assert made.runs[1].state is None
    assert chosen is made.runs[0]


def test_a_score_that_is_not_a_number_is_never_the_best(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan = float("nan")
    scores = iter([nan, 50.0, 40.0, nan, nan, 60.0, nan, nan])  # two rates at four validations
    monkeypatch.setattr(
        "mt4ssl_bench.downstream.heads.ctc.CTCTask.measure", lambda *_: next(scores)
    )
    made, chosen = sweep(corpus, "phoneme", "sweep=[1e-2, 1e-3]")
    assert [(trial.best, trial.step) for trial in made.runs] == [(40.0, 6), (50.0, 3)]
    assert chosen is made.runs[0]
    scores = iter([nan] * 8)
    with pytest.raises(
        TrainingError, match="cannot be measured on any of 3 utterances of valid at update 3"
    ):
        sweep(corpus, "phoneme", "sweep=[1e-2, 1e-3]")


def test_every_seed_is_trained_at_every_rate_from_weights_of_its_own(corpus: Corpus) -> None:
    made, chosen = sweep(corpus, "phoneme", "sweep=[0.1, 0.01]", "seeds=[3, 4]")
    assert [(trial.seed, trial.lr) for trial in made.runs] == [
        (3, 0.1),
        (3, 0.01),
        (4, 0.1),
        (4, 0.01),
    ]
    weights = [trial.head.state_dict()["output.weight"] for trial in made.runs]
    assert not weights[1].allclose(weights[3], atol=1e-3)
    means = {lr: sum(run.best for run in made.runs if run.lr == lr) / 2 for lr in (0.1, 0.01)}
    assert (chosen.seed, chosen.lr) == (3, min(means, key=means.__getitem__))


def test_a_head_that_waits_longer_than_its_patience_is_not_trained_further(corpus: Corpus) -> None:
    made, chosen = sweep(corpus, "speaker", "sweep=[1e-12, 1e-2]", "steps=400", "patience=2")
    still = made.runs[0]  # nothing moves at this rate: the first validation stays the best
    assert still.step == 3
    assert still.waited == 2
    assert all(trial.stopped for trial in made.runs), "400 updates are not needed"
    again, _ = sweep(corpus, "speaker", "lr=1e-2", "steps=400", "patience=2")
    assert again.runs[0].step == made.runs[1].step
    assert chosen.waited <= 2


def test_one_learning_rate_needs_no_sweep(corpus: Corpus) -> None:
    made, _ = sweep(corpus, "phoneme", "sweep=none", "lr=0.02", "steps=2")
    assert [trial.lr for trial in made.runs] == [0.02]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("sweep=none", "lr must name the one learning rate"),
        ("sweep=[0.1,0.1]", "different learning rates above 0"),
        ("lr=-1", "above 0"),
        ("seeds=[]", "expected one or several"),
        ("seeds=1,1", "different numbers"),
    ],
)
def test_rates_and_seeds_that_make_no_sense_are_refused(
    corpus: Corpus, key: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(str(DATA / "toy_phoneme.yaml"), corpus, [key])


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Torch computes on two CPU threads during a test."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("task", "each", "workers"), [("asr", 1, 2), ("phoneme", 2, 1)])
@pytest.mark.usefixtures("two_threads")
def test_small_recurrent_heads_train_on_a_thread_each_as_many_as_torch_has(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, *, task: str, each: int, workers: int
) -> None:
    counts, names, loss = set(), set(), CTCTask.loss

    def spy(self: CTCTask, *arguments: Any) -> torch.Tensor:
        counts.add(torch.get_num_threads())
        names.add(threading.get_ident())
        time.sleep(0.01)  # a thread that is free would take the next head
        return loss(self, *arguments)

    monkeypatch.setattr(CTCTask, "loss", spy)
    sweep(corpus, task, "sweep=[1e-1, 1e-2, 1e-3]")
    assert torch.get_num_threads() == 2
    assert counts == {each}
    assert len(names) == workers


@pytest.mark.usefixtures("two_threads")
def test_heads_side_by_side_have_the_bits_of_heads_in_turn(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ["sweep=[1e-1, 1e-2, 1e-3]", "seeds=[1, 2]", "clip_norm=0.5", "accumulate=2"]
    keys += ["head.dropout=0.3", "head.spec_augment=true", "head.lstm_layers=2"]
    apart, _ = sweep(corpus, "asr", *keys)
    monkeypatch.setattr("mt4ssl_bench.downstream.training.sweep.serial", lambda head: False)  # noqa: ARG005
    torch.set_num_threads(1)
    in_turn, _ = sweep(corpus, "asr", *keys)
    for ours, expected in zip(apart.runs, in_turn.runs, strict=True):
        assert (ours.best, ours.step) == (expected.best, expected.step)
        for key, value in expected.head.state_dict().items():
            assert value.equal(ours.head.state_dict()[key]), key


@pytest.mark.usefixtures("two_threads")
def test_a_head_whose_loss_is_not_finite_leaves_those_beside_it_as_they_are(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    well, _ = sweep(corpus, "asr", "sweep=[1e-2, 1e-3]")
    recur, start = RecurrentHead.recur, Fit._backward
    broken: list[torch.nn.Module] = []

    def spoil(self: Any, *arguments: Any) -> Any:
        broken[:] = [self.model[0]] if self.state.step == 6 else []
        return start(self, *arguments)

    def head(self: RecurrentHead, *arguments: Any) -> Any:
        logits, frames = recur(self, *arguments)
        return (logits * float("nan") if self in broken else logits), frames

    monkeypatch.setattr(Fit, "_backward", spoil)
    monkeypatch.setattr(RecurrentHead, "recur", head)
    ill, _ = sweep(corpus, "asr", "sweep=[1e-2, 1e-3]")
    assert [trial.diverged for trial in ill.runs] == [True, False]
    for key, value in well.runs[1].head.state_dict().items():
        assert value.equal(ill.runs[1].head.state_dict()[key]), key


def test_targets_are_made_for_the_batch_that_needs_them(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    target = CTCTask.target

    def counted(task: CTCTask, cut: Any) -> torch.Tensor:
        asked.append(cut.id)
        return target(task, cut)

    monkeypatch.setattr(CTCTask, "target", counted)
    sweep(corpus, "phoneme", "sweep=[0.1, 0.01]", "steps=2", "batch=3")
    assert len(asked) == 2 * 3, "once for all heads, and of no other utterances"
