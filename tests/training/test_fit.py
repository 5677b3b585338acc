"""The training loop on a small regression: it learns, stops politely, and continues after any
interruption exactly.

Run as a program (python test_fit.py RUN MODE), it is the child process that the tests
interrupt.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from builders import environment, full_disk, identical, read_log
from mt4ssl_bench import checkpoint, files
from mt4ssl_bench.data.batches import endless
from mt4ssl_bench.errors import CheckpointError, TrainingError
from mt4ssl_bench.training.fit import Fit, FitConfig, FitReport, Hooks, Scaling, StepLoss
from mt4ssl_bench.training.optim import OptimConfig, factor
from mt4ssl_bench.training.run_folder import RunFolder

Batch = tuple[Tensor, Tensor]
OPTIM = OptimConfig(lr=0.02, schedule="constant")
STEPS = 20  # of 6 batches per epoch: interruptions fall within epochs
TRUTH = torch.tensor([[1.0], [-2.0], [0.5]])


class Stop(Exception):  # noqa: N818 - what an interruption raises
    """An interruption from outside."""


def examples(epoch: int) -> Batch:
    x = torch.randn(48, 3, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(48, generator=torch.Generator().manual_seed(epoch))
    return x[order], (x @ TRUTH + 0.25)[order]


def eights(epoch: int, skip: int) -> Iterator[Batch]:
    """Yield 6 batches of 8."""
    x, y = examples(epoch)
    yield from list(zip(x.split(8), y.split(8), strict=True))[skip:]


def network(dropout: float = 0.2) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 8), nn.Dropout(dropout), nn.Linear(8, 1))


def build(run: Path | None = None, model: nn.Module | None = None, **changes: Any) -> Fit[Batch]:
    """Return a run over `eights`; `changes` go to the class that knows them, else to Fit."""
    model = model or network()

    def known(kind: Any) -> dict[str, Any]:
        return {key: changes.pop(key) for key in list(changes) if key in kind.__dataclass_fields__}

    config = FitConfig(
        **{
            "steps": STEPS,
            "log_every": 1,
            "save_every": 5,
            "validate_every": 1_000,
            **known(FitConfig),
        }
    )

    def loss(batch: Batch, step: int, micro: int) -> StepLoss:
        total = (model(batch[0]) - batch[1]).square().sum()
        return StepLoss(total=total, count=len(batch[0]), sums={"loss": total}, seconds=1.0)

    folder = run and RunFolder(run, changes.pop("meta", None), changes.pop("free", ()))
    owner, scaling = Hooks(**known(Hooks)), Scaling(**known(Scaling))
    given = {"batches": eights, "loss": loss, "optim": OPTIM, "folder": folder, **changes}
    given |= {"hooks": owner, "scaling": scaling}
    return Fit(
        model, endless(given.pop("batches")), given.pop("loss"), given.pop("optim"), config, **given
    )


def stop_at(step: int, error: Exception) -> Any:
    def after(done: int, values: Mapping[str, float]) -> Mapping[str, float]:
        if done == step:
            raise error
        return {}

    return after


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    run = tmp_path_factory.mktemp("whole")
    assert build(run)().finished
    return run


def assert_equals_whole(run: Path, whole: Path) -> None:
    ours, theirs = (checkpoint.load(folder / "checkpoint.pt") for folder in (run, whole))
    assert ours["step"] == STEPS
    assert identical(ours, theirs)
    rows = read_log(run, times=False)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert rows == read_log(whole, times=False)


# ---- learning ----


def test_a_line_is_learnt() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optim = OptimConfig(lr=0.1, weight_decay=0.0, phases=(0.1, 0.4, 0.5))
    report = build(model=model, steps=400, optim=optim)()
    assert (report.steps, report.finished, report.validations) == (400, True, [])
    assert torch.allclose(model.weight, TRUTH.T, atol=1e-3)
    assert model.bias.item() == pytest.approx(0.25, abs=1e-3)


def test_without_a_run_folder_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    build(steps=6)()
    assert list(tmp_path.iterdir()) == []


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, again, other = (network() for _ in range(3))
    for model, seed in ((first, 1), (again, 1), (other, 2)):
        build(model=model, seed=seed)()
    assert identical(first.state_dict(), again.state_dict())
    assert not identical(first.state_dict(), other.state_dict())


def test_the_log_holds_the_mean_loss_per_count_the_rate_and_the_epoch(tmp_path: Path) -> None:
    model = nn.Linear(3, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    optim = OptimConfig(lr=0.02, phases=(0.2, 0.5, 0.3))
    build(tmp_path, model, optim=optim)()
    rows = read_log(tmp_path)
    assert rows[0]["loss"] == pytest.approx(examples(0)[1][:8].square().mean().item(), rel=1e-5)
    assert [row["epoch"] for row in rows] == [(step - 1) // 6 for step in range(1, STEPS + 1)]
    expected = [0.02 * factor(step, STEPS, optim) for step in range(STEPS)]
    assert [row["lr"] for row in rows] == pytest.approx(expected, rel=1e-5)
    assert all(row["audio_seconds_per_second"] > 0 for row in rows)


def test_a_log_line_holds_the_means_since_the_line_before(
    tmp_path: Path,
) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    build(one)()
    build(many, log_every=8)()
    losses = [row["loss"] for row in read_log(one)]
    assert [row["step"] for row in read_log(many)] == [1, 8, 16, 20]
    means = [losses[0], sum(losses[1:8]) / 7, sum(losses[8:16]) / 8, sum(losses[16:]) / 4]
    assert [row["loss"] for row in read_log(many)] == pytest.approx(means, rel=1e-4)


def test_what_after_step_returns_is_logged_beside_the_loss(tmp_path: Path) -> None:
    def after(step: int, values: Mapping[str, float]) -> Mapping[str, float]:
        return {"twice": 2 * values["loss"]} if step % 10 == 0 else {}

    build(tmp_path, after_step=after)()
    assert [row["step"] for row in read_log(tmp_path) if "twice" in row] == [10, 20]
    assert read_log(tmp_path)[9]["twice"] == pytest.approx(
        2 * read_log(tmp_path)[9]["loss"], rel=1e-5
    )


def test_validation_runs_every_nth_update_and_at_the_end(tmp_path: Path) -> None:
    report = build(
        tmp_path, steps=12, validate_every=5, validate=lambda step: {"wer": 100.0 / step}
    )()
    expected = [{"step": step, "wer": 100.0 / step} for step in (5, 10, 12)]
    assert report.validations == expected
    assert [row["wer"] for row in read_log(tmp_path) if "wer" in row] == pytest.approx(
        [20.0, 10.0, 100 / 12], rel=1e-5
    )


def test_parameters_that_want_no_gradient_stay_as_they_are() -> None:
    model = network()
    frozen = model[0]
    assert isinstance(frozen, nn.Linear)
    frozen.requires_grad_(requires_grad=False)
    before = frozen.weight.clone()
    build(model=model)()
    assert torch.equal(frozen.weight, before)


def test_gradients_are_clipped_group_by_group_after_they_are_averaged() -> None:
    model = network(dropout=0.0)
    groups = [{"params": list(layer.parameters())} for layer in (model[0], model[2])]
    fit = build(
        model=model, groups=groups, optim=OptimConfig(lr=1e-3, clip_norm=0.05, schedule="constant")
    )
    norms: list[float] = []

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        gradients = [
            [p.grad.flatten() for p in group["params"]] for group in optimizer.param_groups
        ]
        norms.extend(torch.cat(grads).norm().item() for grads in gradients)

    fit.optimizer.register_step_pre_hook(note)
    fit()
    assert len(norms) == 2 * STEPS
    assert norms[:2] == pytest.approx([0.05, 0.05], rel=1e-4)
    assert max(norms) <= 0.05 * 1.0001


def test_two_unequal_parts_of_a_batch_make_the_update_of_the_whole_batch() -> None:
    def parts(epoch: int, skip: int) -> Iterator[Batch]:
        x, y = examples(epoch)
        yield from list(zip(x.split([3, 5] * 6), y.split([3, 5] * 6), strict=True))[skip:]

    one, two = network(dropout=0.0), network(dropout=0.0)
    build(model=one)()
    build(model=two, batches=parts, accumulate=2)()
    for ours, theirs in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-6)


def test_parts_of_an_update_are_numbered_and_know_the_completed_updates() -> None:
    model, seen = network(), []

    def loss(batch: Batch, step: int, micro: int) -> StepLoss:
        seen.append((step, micro))
        return StepLoss(total=model(batch[0]).sum(), count=8)

    build(model=model, loss=loss, steps=3, accumulate=2)()
    assert seen == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]


# ---- stopping ----


def test_an_epoch_without_batches_is_an_error_and_no_endless_loop() -> None:
    with pytest.raises(TrainingError, match="an epoch holds no batch; check the split"):
        build(batches=lambda epoch, skip: iter(()))()  # noqa: ARG005


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    tmp_path: Path, value: float
) -> None:
    model = network()

    def loss(batch: Batch, step: int, micro: int) -> StepLoss:
        total = model(batch[0]).square().sum()
        return StepLoss(total=total * value if step == 7 else total, count=8, sums={"loss": total})

    with pytest.raises(
        TrainingError, match=rf"train: the loss is {value} at update 7; the last checkpoint stays"
    ):
        build(tmp_path, model, loss=loss)()
    stored = checkpoint.load(tmp_path / "checkpoint.pt")
    assert stored["step"] == 5
    assert all(torch.isfinite(value).all() for value in stored["model"].values())
    assert [row["step"] for row in read_log(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]


def test_a_batch_that_does_not_fit_into_memory_stops_the_run_with_what_to_change(
    tmp_path: Path,
) -> None:
    model = network()

    def loss(batch: Batch, step: int, micro: int) -> StepLoss:
        if step == 7:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return StepLoss(total=model(batch[0]).square().sum(), count=8)

    with pytest.raises(TrainingError, match=r"out of device memory at update 7 .*batch_seconds"):
        build(tmp_path, model, loss=loss)()
    assert checkpoint.load(tmp_path / "checkpoint.pt")["step"] == 5


def test_a_loss_that_is_not_finite_names_the_utterances_of_its_own_batch(tmp_path: Path) -> None:
    model = network()

    def loss(batch: Batch, step: int, number: int) -> StepLoss:
        total = model(batch[0]).square().sum()
        bad = (step, number) == (3, 1)
        return StepLoss(
            total=total * float("nan") if bad else total,
            count=8,
            ids=[f"u{step}{number}a", f"u{step}{number}b"],
        )

    with pytest.raises(
        TrainingError, match=r"the loss is nan at update 3, utterances u31a, u31b; the last"
    ):
        build(tmp_path, model, loss=loss, accumulate=2)()


def root_of_zero(model: nn.Module, batch: Batch) -> Tensor:
    """Return a loss of 0 whose gradient is NaN."""
    total: Tensor = (model(batch[0]) * 0).sum().sqrt()
    return total


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_weights_move(
    tmp_path: Path,
) -> None:
    model = network()

    def loss(batch: Batch, step: int, number: int) -> StepLoss:
        total = root_of_zero(model, batch) if step == 7 else model(batch[0]).square().sum()
        return StepLoss(total=total, count=8, ids=[f"u{step}"])

    with pytest.raises(
        TrainingError, match=r"the gradient is not finite at update 7, utterances u7; the last"
    ):
        build(tmp_path, model, loss=loss)()
    assert checkpoint.load(tmp_path / "checkpoint.pt")["step"] == 5
    assert all(value.isfinite().all() for value in model.state_dict().values())


def two_groups(**changes: Any) -> tuple[nn.Module, nn.Module, Fit[Batch]]:
    """Return two models, a group each, and their run: the second's gradient is NaN in update 3."""
    well, ill = network(), network()

    def loss(batch: Batch, step: int, number: int) -> StepLoss:
        total = well(batch[0]).square().sum() + ill(batch[0]).square().sum()
        return StepLoss(total=total + root_of_zero(ill, batch) if step == 3 else total, count=8)

    groups = [{"params": list(model.parameters())} for model in (well, ill)]
    return well, ill, build(model=nn.ModuleList([well, ill]), loss=loss, groups=groups, **changes)


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_gradient_that_is_not_finite_in_one_group_keeps_all_weights(
    clip: float,
) -> None:
    optim = replace(OPTIM, clip_norm=clip)
    _, _, run = two_groups(optim=optim)
    with pytest.raises(TrainingError, match="the gradient is not finite at update 3"):
        run()
    _, _, short = two_groups(optim=optim, steps=3)
    short()
    assert identical(run.model.state_dict(), short.model.state_dict())


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_group_that_may_diverge_stays_as_it_is_and_the_others_go_on(clip: float) -> None:
    diverged: list[tuple[int, list[int]]] = []
    well, ill, run = two_groups(
        optim=replace(OPTIM, clip_norm=clip),
        diverged=lambda step, groups: diverged.append((step, list(groups))),
    )
    before: dict[str, Any] = {}
    update = run._update

    def watched(*arguments: Any) -> Any:
        if run.state.step == 3:
            before.update({k: v.clone() for k, v in run.model.state_dict().items()})
        values = update(*arguments)
        if run.state.step == 4:
            after = run.model.state_dict()
            moved = {k.split(".")[0] for k in before if not after[k].equal(before[k])}
            assert moved == {"0"}
        return values

    run._update = watched  # type: ignore[method-assign]
    assert run().finished
    assert diverged == [(3, [1])]
    for model in (well, ill):
        assert all(value.isfinite().all() for value in model.state_dict().values())


def test_a_full_disk_stops_the_run_and_the_last_checkpoint_stays_whole(
    tmp_path: Path, whole: Path
) -> None:
    build(tmp_path, after_step=signal_at(5, signal.SIGINT))()
    size = (tmp_path / "checkpoint.pt").stat().st_size
    with (
        full_disk(size - 1000),
        pytest.raises(CheckpointError, match=r"could not be saved .*; the previous one"),
    ):
        build(tmp_path)()
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "checkpoint.pt", "log.jsonl"}
    assert checkpoint.load(tmp_path / "checkpoint.pt")["step"] == 5
    lines = "".join((tmp_path / "log.jsonl").read_text().splitlines(keepends=True)[:5])
    for size, message in (
        (0, "an existing file is kept"),
        (len(lines) + 10, "the last checkpoint stays"),
    ):
        with (
            full_disk(size),
            pytest.raises(TrainingError, match=rf"log.jsonl: could not be written .*{message}"),
        ):
            build(tmp_path)()
    assert (tmp_path / "log.jsonl").read_text()[: len(lines)] == lines
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "checkpoint.pt", "log.jsonl"}
    build(tmp_path)()
    assert_equals_whole(tmp_path, whole)


def test_a_folder_in_which_a_run_is_going_on_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PATIENCE", 0.1)

    def meanwhile(done: int, values: Mapping[str, float]) -> Mapping[str, float]:
        if done == 3:
            with pytest.raises(
                TimeoutError, match="another process works there; wait for it, or choose another"
            ):
                build(tmp_path)()
        return {}

    assert build(tmp_path, after_step=meanwhile)().finished
    assert [line["step"] for line in read_log(tmp_path)] == list(range(1, STEPS + 1))
    assert build(tmp_path)().finished


# ---- fp16 ----


def scaler() -> torch.amp.GradScaler:
    return torch.amp.GradScaler(
        "cpu", init_scale=2.0**126, growth_interval=6
    )  # over fp32: some updates overflow


def test_an_update_that_overflows_is_tried_again_at_half_the_scale(
    tmp_path: Path,
) -> None:
    seen: list[int] = []
    model = network()

    def loss(batch: Batch, step: int, number: int) -> StepLoss:
        seen.append(step)
        return StepLoss(total=(model(batch[0]) - batch[1]).square().sum(), count=8)

    build(tmp_path, model, loss=loss, scaler=scaler())()
    stored = checkpoint.load(tmp_path / "checkpoint.pt")
    assert stored["step"] == STEPS
    assert seen.count(0) > 1  # the scale had to come down first
    assert sorted(set(seen)) == list(range(STEPS))
    assert 6 * stored["epoch"] + stored["position"] == len(seen)
    assert 1.0 < stored["scaler"]["scale"] < 2.0**126
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_loss_scaling_changes_no_update_and_continues_exactly(tmp_path: Path) -> None:
    plain, scaled = network(), network()
    build(model=plain)()
    build(tmp_path / "whole", model=scaled, scaler=torch.amp.GradScaler("cpu", init_scale=128.0))()
    for ours, theirs in zip(plain.parameters(), scaled.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-6)
    build(tmp_path / "a", scaler=scaler())()
    with pytest.raises(Stop):
        build(tmp_path / "b", scaler=scaler(), after_step=stop_at(8, Stop()))()
    build(tmp_path / "b", scaler=scaler())()
    assert identical(*(checkpoint.load(tmp_path / name / "checkpoint.pt") for name in "ab"))


def test_fp16_that_overflows_at_every_scale_stops_the_run() -> None:
    model = network()

    def loss(batch: Batch, step: int, number: int) -> StepLoss:
        return StepLoss(total=root_of_zero(model, batch), count=8)

    with pytest.raises(
        TrainingError, match=r"fp16 overflows at update 0; fit.autocast=bf16 does not"
    ):
        build(model=model, loss=loss, scaler=torch.amp.GradScaler("cpu", init_scale=128.0))()


def test_the_signal_handlers_of_the_caller_come_back(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    build(tmp_path, steps=2)()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def signal_at(step: int, *numbers: signal.Signals) -> Any:
    def after(done: int, values: Mapping[str, float]) -> Mapping[str, float]:
        for number in numbers if done == step else ():
            signal.raise_signal(number)
        return {}

    return after


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_update_end_and_be_saved(
    tmp_path: Path, whole: Path, number: signal.Signals
) -> None:
    report = build(tmp_path, after_step=signal_at(13, number))()
    assert (report.steps, report.finished) == (13, False)
    assert checkpoint.load(tmp_path / "checkpoint.pt")["step"] == 13
    build(tmp_path)()
    assert_equals_whole(tmp_path, whole)


def test_the_same_signal_again_stops_at_once_and_the_last_checkpoint_stays(
    tmp_path: Path, whole: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, after_step=signal_at(13, signal.SIGINT, signal.SIGINT))()
    assert checkpoint.load(tmp_path / "checkpoint.pt")["step"] == 10
    build(tmp_path)()
    assert_equals_whole(tmp_path, whole)


def test_a_ctrl_c_that_a_launcher_follows_with_sigterm_is_still_polite(tmp_path: Path) -> None:
    report = build(tmp_path, after_step=signal_at(13, signal.SIGINT, signal.SIGTERM))()
    assert (report.steps, report.finished) == (13, False)


def test_a_run_in_another_thread_works_without_signals(tmp_path: Path) -> None:
    reports: list[FitReport] = []
    thread = threading.Thread(target=lambda: reports.append(build(tmp_path, steps=3)()))
    thread.start()
    thread.join()
    assert [report.finished for report in reports] == [True]


# ---- continuing ----


@pytest.mark.parametrize("step", [5, 6, 13, 19, 20])
def test_an_interrupted_run_continues_to_the_same_bits(
    tmp_path: Path, whole: Path, step: int
) -> None:
    with pytest.raises(Stop):
        build(tmp_path, after_step=stop_at(step, Stop()))()
    assert build(tmp_path)().finished
    assert_equals_whole(tmp_path, whole)


def test_a_run_interrupted_again_and_again_continues_to_the_same_bits(
    tmp_path: Path, whole: Path
) -> None:
    for step in (7, 12, 16):
        with pytest.raises(Stop):
            build(tmp_path, after_step=stop_at(step, Stop()))()
    build(tmp_path)()
    assert_equals_whole(tmp_path, whole)


def test_a_run_interrupted_before_its_first_checkpoint_starts_anew_with_a_new_log(
    tmp_path: Path, whole: Path
) -> None:
    with pytest.raises(Stop):
        build(tmp_path, after_step=stop_at(3, Stop()))()
    assert not (tmp_path / "checkpoint.pt").exists()
    build(tmp_path)()
    assert_equals_whole(tmp_path, whole)


def test_on_continuing_the_log_loses_repeated_updates_and_a_line_cut_short(
    tmp_path: Path, whole: Path
) -> None:
    with pytest.raises(Stop):
        build(tmp_path, after_step=stop_at(9, Stop()))()
    assert [row["step"] for row in read_log(tmp_path)] == [1, 2, 3, 4, 5, 6, 7, 8]
    with (tmp_path / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 9, "lo')
    build(tmp_path)()
    assert_equals_whole(tmp_path, whole)


def test_models_that_draw_from_numpys_and_pythons_generators_continue_exactly(
    tmp_path: Path,
) -> None:
    def run(folder: Path, **changes: Any) -> Fit[Batch]:
        model = network()

        def loss(batch: Batch, step: int, micro: int) -> StepLoss:
            # as s3prl's models do
            drawn = 1 + np.random.random() + random.random()  # noqa: NPY002, S311
            return StepLoss(total=drawn * model(batch[0]).square().sum(), count=8)

        return build(folder, model, loss=loss, **changes)

    run(tmp_path / "whole")()
    with pytest.raises(Stop):
        run(tmp_path / "broken", after_step=stop_at(13, Stop()))()
    np.random.seed(5)  # noqa: NPY002
    run(tmp_path / "broken")()
    ours, theirs = (checkpoint.load(tmp_path / n / "checkpoint.pt") for n in ("broken", "whole"))
    assert identical(ours, theirs)


def test_a_finished_run_is_not_repeated(whole: Path) -> None:
    before = (whole / "checkpoint.pt").stat().st_mtime_ns

    seen: list[int] = []
    model = network()
    report = build(whole, model, after_step=lambda step, _: seen.append(step) or {})()
    assert (report.steps, report.finished, seen) == (STEPS, True, [])
    assert (whole / "checkpoint.pt").stat().st_mtime_ns == before
    assert identical(model.state_dict(), checkpoint.load(whole / "checkpoint.pt")["model"])


def test_validations_survive_an_interruption(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"validate_every": 4, "validate": lambda step: {"wer": float(step)}}
    with pytest.raises(Stop):
        build(tmp_path, after_step=stop_at(11, Stop()), **settings)()
    report = build(tmp_path, **settings)()
    assert [found["step"] for found in report.validations] == [4, 8, 12, 16, 20]
    assert [row["step"] for row in read_log(tmp_path) if "wer" in row] == [4, 8, 12, 16, 20]


def test_a_run_folder_with_other_settings_is_refused_naming_the_key(tmp_path: Path) -> None:
    meta = {"config": {"optim": {"lr": 1e-3, "betas": (0.9, 0.98)}, "about": "x"}, "corpus": "abcd"}
    build(tmp_path, steps=5, meta=meta)()
    kept = (tmp_path / "checkpoint.pt").read_bytes()
    other = {**meta, "config": {"optim": {"lr": 2e-3, "betas": (0.9, 0.98)}, "about": "x"}}
    with pytest.raises(CheckpointError) as caught:
        build(tmp_path, meta=other)()
    assert str(caught.value) == (
        f"{tmp_path}: holds a run with other settings (optim.lr: 0.001 there, 0.002 here); "
        "choose another --out, or repeat its own settings and labels"
    )
    with pytest.raises(CheckpointError, match=r"\(corpus: abcd there, ef01 here\)"):
        build(tmp_path, meta={**meta, "corpus": "ef01"})()
    with pytest.raises(CheckpointError, match=r"\(corpus: abcd"):
        build(tmp_path, meta={**other, "corpus": "ef01"}, free=["config.optim.lr"])()
    assert (tmp_path / "checkpoint.pt").read_bytes() == kept
    assert build(tmp_path, steps=5, meta=meta)().finished
    assert build(tmp_path, steps=5, meta=other, free=["config.optim.lr"])().finished


def test_a_damaged_checkpoint_is_named_and_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="truncated, damaged"):
        build(tmp_path)()
    assert (tmp_path / "checkpoint.pt").read_bytes() == b"damaged"


# ---- real processes ----


class Child:
    """This file as a process: it says where it stands and waits for a line before it goes on."""

    def __init__(self, run: Path, mode: str) -> None:
        command = [sys.executable, __file__, str(run), mode]
        self.process = subprocess.Popen(
            command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.read() == "ready"

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> int:
        self.process.communicate(timeout=60)
        return self.process.returncode


@pytest.mark.parametrize("mode", ["wait-in-update-13", "wait-in-save-10"])
def test_a_killed_process_is_continued_to_the_same_bits(
    tmp_path: Path, whole: Path, mode: str
) -> None:
    child = Child(tmp_path, mode)
    child.process.send_signal(signal.SIGKILL)
    assert child.end() == -signal.SIGKILL
    # killed within the second save, the file of the first one still stands
    assert checkpoint.load(tmp_path / "checkpoint.pt")["step"] == (
        10 if mode == "wait-in-update-13" else 5
    )
    build(tmp_path)()
    assert_equals_whole(tmp_path, whole)


def test_an_interrupted_process_saves_its_update_and_leaves_the_run_unfinished(
    tmp_path: Path, whole: Path
) -> None:
    child = Child(tmp_path, "wait-in-update-13")
    child.process.send_signal(signal.SIGINT)
    child.go_on()
    assert json.loads(child.read()) == {"steps": 13, "finished": False}
    assert child.end() == 0
    assert checkpoint.load(tmp_path / "checkpoint.pt")["step"] == 13
    build(tmp_path)()
    assert_equals_whole(tmp_path, whole)


def _wait(*_: Any) -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()


def _child(run: Path, mode: str) -> None:
    def after(step: int, values: Mapping[str, float]) -> Mapping[str, float]:
        if (step, mode) == (13, "wait-in-update-13"):
            _wait()
        if (step, mode) == (10, "wait-in-save-10"):
            os.fsync = _wait
        return {}

    report = build(run, after_step=after)()
    sys.stdout.write(json.dumps({"steps": report.steps, "finished": report.finished}) + "\n")


def test_a_model_without_the_state_of_its_training_cannot_be_continued(tmp_path: Path) -> None:
    build(tmp_path, steps=2)()
    stored = checkpoint.load(tmp_path / "checkpoint.pt")
    kept = {
        key: value for key, value in stored.items() if key not in {"format", "optimizer", "shares"}
    }
    checkpoint.save(kept, tmp_path / "checkpoint.pt")
    with pytest.raises(
        CheckpointError, match=r"not the state of its training \(optimizer, shares\).*init="
    ):
        build(tmp_path, steps=4)()


if __name__ == "__main__":
    torch.set_num_threads(1)
    _child(Path(sys.argv[1]), sys.argv[2])
