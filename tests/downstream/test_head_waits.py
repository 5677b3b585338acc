"""Head training on a GPU of fake tensors: every task's head has its types there, and the host waits
at most once in 100 updates.

Fake tensors have no values: whatever waits for one is an error, but for what the count finds.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from lhotse import Recording
from torch import Tensor
from waits import Waits, on_fake_cuda

from builders import RATE, spoken
from fakes import Noise
from mt4ssl_bench.downstream.heads import ctc
from mt4ssl_bench.downstream.heads.recurrent import RecurrentHead
from mt4ssl_bench.downstream.heads.spectra import BINS
from mt4ssl_bench.downstream.heads.units import Characters
from mt4ssl_bench.downstream.task import TASKS, Task
from mt4ssl_bench.downstream.tasks.slots import SlotUnits
from mt4ssl_bench.downstream.training.sweep import Split, Sweep
from mt4ssl_bench.training import fit
from mt4ssl_bench.training.divergence import Divergence

SECONDS = 1.0  # of a spoken() cut
FRAMES = 50
UPDATES = 4  # between two looks, here; a hundred would take minutes


def unit_ids(task: Any) -> Tensor:
    task.units = SlotUnits(["time"]) if task.name == "slots" else Characters(["AB CD"])
    return torch.tensor([1, 2, 1])


def labels(task: Any) -> Tensor:
    task.values = {name: ["a", "b", "c"] for name in task.names}
    return torch.arange(len(task.names)) % 3


def speakers(task: Any) -> Tensor:
    task.speakers = ["a", "b", "c"]
    return torch.tensor([1])


def turns(task: Any) -> Tensor:
    task.speakers = 3
    return torch.ones(FRAMES, 3)


def magnitudes(task: Any) -> Tensor:
    return torch.ones(FRAMES + 1, 1 + len(task.sources), BINS)


# what gives a task its outputs, and returns a target
MADE: dict[str, Callable[[Any], Tensor]] = {
    **dict.fromkeys(("asr", "phoneme", "slots"), unit_ids),
    **dict.fromkeys(("speaker", "intent", "keyword", "emotion"), labels),
    "verification": speakers,
    "diarization": turns,
    **dict.fromkeys(("enhancement", "separation"), magnitudes),
}
SMALL = {"hidden": 4, "lstm_layers": 2, "projection": 4, "pooled": 6, "spec_augment": True}


class Long(Noise):
    """Noise with the frames of SECONDS."""

    def count(self, name: str) -> int:  # noqa: ARG002
        return 2 if self.pooled else FRAMES


def small(kind: type[Task], **keys: Any) -> Task:
    plain: Any = kind.Config()
    own = {key: value for key, value in SMALL.items() if hasattr(plain.head, key)}
    return kind(kind.Config(head=type(plain.head)(**own), **keys))


def test_every_task_that_trains_is_here() -> None:
    assert MADE.keys() == {name for name, kind in TASKS.items() if issubclass(kind, Task)}


def prepared(name: str) -> tuple[Any, list[Any]]:
    """Return a task that gives one target to each of some cuts, and the cuts."""
    kind: Any = TASKS.get(name)
    task: Any = small(kind, steps=UPDATES, validate_every=UPDATES, sweep=(1e-2, 1e-3), batch=2)
    target = MADE[name](task)
    task.target = lambda cut: target  # noqa: ARG005
    cuts: list[Any] = [spoken(name=f"u{number}") for number in range(4)]
    for cut in cuts:  # whose spectra have the frames of its recording
        cut.recording = Recording(cut.id, [], RATE, round(SECONDS * RATE), SECONDS)
    assert {cut.duration for cut in cuts} == {SECONDS}
    return task, cuts


def ctc_of_any_device(
    log_probs: Tensor, ids: Tensor, lengths: Sequence[int], sizes: Sequence[int]
) -> Tensor:
    """Stand for torch's CTC, of which there are no fake tensors; it asks for lengths on the host."""
    assert log_probs.is_cuda
    assert ids.is_cuda
    assert all(isinstance(each, int) for each in (*lengths, *sizes))
    return log_probs.sum((0, 2))


@pytest.mark.parametrize("name", MADE)
def test_updates_of_a_tasks_heads_wait_for_the_device_only_every_hundred(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fit.LOOK_EVERY == 100
    monkeypatch.setattr(fit, "LOOK_EVERY", UPDATES)
    task, cuts = prepared(name)
    sweep = Sweep(task, Noise.layers, Noise.dim, device="cpu")
    looks: list[list[str]] = []
    made: list[Tensor] = []
    losses = Sweep.losses

    def kept(self: Sweep, runs: Sequence[Any], batch: Any) -> Tensor:
        made.append(losses(self, runs, batch))
        return made[-1]

    def backward(total: Tensor) -> None:  # the engine asks for a driver; see the test below
        assert total.is_cuda
        for p in sweep.heads.parameters():
            p.grad = torch.zeros_like(p)

    monkeypatch.setattr(Sweep, "losses", kept)
    monkeypatch.setattr(Sweep, "validate", lambda *_: {})
    monkeypatch.setattr(Tensor, "backward", backward)
    monkeypatch.setattr(ctc, "_ctc", ctc_of_any_device)
    monkeypatch.setattr(
        "mt4ssl_bench.downstream.training.sweep.choose",
        lambda trials, *_: [trial | {"chosen": True} for trial in trials[0]],
    )
    with on_fake_cuda(monkeypatch):
        sweep.heads.to("cuda")
        train = Split(
            cuts, Long(pooled=task.pooled), pooled=task.pooled, device="cuda", match=task.match
        )
        with Waits(real_host=True) as waits:
            monkeypatch.setattr(
                Divergence, "found", lambda _: looks.append(list(waits.names)) or []
            )
            sweep.run(train, train)
    assert waits.names == []
    assert len(looks) == 1, "the only wait: which heads have diverged"
    assert len(made) == UPDATES * task.config.accumulate
    assert {(x.device.type, x.dtype, x.shape) for x in made} == {("cuda", torch.float32, (2,))}
    assert all(p.is_cuda and p.dtype == torch.float32 for p in sweep.heads.parameters())


@pytest.mark.parametrize("name", MADE)
def test_the_gradient_of_a_tasks_heads_reads_no_value(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, cuts = prepared(name)
    monkeypatch.setattr(  # the form for CUDA
        RecurrentHead, "recur", lambda head, x, lengths, _: (head.packed(x, lengths), lengths)
    )
    sweep = Sweep(task, Noise.layers, Noise.dim, device="cpu")
    features = Long(pooled=task.pooled)
    train = Split(cuts, features, pooled=task.pooled, device="cpu", match=task.match)
    total = sweep.losses(sweep.runs, next(train.batches(2))).sum()
    with Waits() as waits:
        total.backward()  # type: ignore[no-untyped-call]
    assert waits.names == []
    assert all(p.grad is not None for p in sweep.heads.parameters())


def test_the_count_finds_copies_and_values(monkeypatch: pytest.MonkeyPatch) -> None:
    host = torch.ones(3)
    with on_fake_cuda(monkeypatch) as move, Waits(real_host=True) as waits:
        x = move(host)  # from memory that is not pinned
        assert len(waits.names) == 1
        host.to("cuda", non_blocking=True)
        assert len(waits.names) == 1
        x.cpu()
        assert len(waits.names) == 2
