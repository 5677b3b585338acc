"""CTC of the tasks: values by enumeration and by torch, and the best path's text."""

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from builders import spoken
from mt4ssl_bench.downstream.heads import ctc
from mt4ssl_bench.downstream.tasks.asr import ASR, ASRConfig


@pytest.fixture(scope="module")
def task() -> ASR:
    task = ASR(ASRConfig(task="asr"))
    task.fit_units([spoken("AB"), spoken("BA A")])
    return task


def logits_of(*paths: str, task: ASR, frames: int) -> Tensor:
    """Return logits (B, T, V) whose best path is given, "_" for a blank."""
    ids = torch.zeros(len(paths), frames, dtype=torch.long)
    for row, path in zip(ids, paths, strict=True):
        row[: len(path)] = torch.tensor(
            [0 if unit == "_" else int(task.fitted.encode(unit)[0]) for unit in path]
        )
    return 9 * F.one_hot(ids, task.outputs).float()


def by_enumeration(logits: Tensor, target: list[int]) -> float:
    """Return -log of the probability of all paths (V ** T) that spell the target."""
    log_probs = logits.log_softmax(-1)
    total = 0.0
    for path in itertools.product(range(logits.shape[1]), repeat=len(logits)):
        if [unit for unit, _ in itertools.groupby(path) if unit] == target:
            total += math.exp(sum(float(log_probs[t, unit]) for t, unit in enumerate(path)))
    return -math.log(total)


def test_the_loss_is_the_probability_of_all_paths_by_target_length(task: ASR) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, task.outputs, generator=generator)
    lengths, targets = torch.tensor([5, 4]), [task.target(spoken(text)) for text in ("ABA", "AA")]
    found = task.loss(logits, lengths, targets)
    for row, length, target, loss in zip(logits, lengths, targets, found, strict=True):
        expected = by_enumeration(row[:length], target.tolist()) / len(target)
        assert float(loss) == pytest.approx(expected, rel=1e-5)
    torchs = F.ctc_loss(
        logits.log_softmax(-1).transpose(0, 1), torch.cat(targets), lengths, torch.tensor([3, 2]),
        reduction="sum",
    )  # fmt: skip
    torch.testing.assert_close(task.summed_loss(logits, lengths, targets), torchs)


@pytest.mark.parametrize(("text", "needed"), [("AB", 2), ("AA", 3), ("AABBA", 7)])
def test_a_target_can_be_learnt_from_the_frames_that_it_needs_and_from_no_fewer(
    task: ASR, text: str, needed: int
) -> None:
    cut = spoken(text)
    assert task.frames_needed(cut) == needed
    logits = torch.zeros(2, needed, task.outputs, requires_grad=True)
    losses = task.loss(logits, torch.tensor([needed, needed - 1]), [task.target(cut)] * 2)
    assert losses[0] > 0
    assert losses[1] == 0
    losses.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert not logits.grad[1].any()


def test_the_best_path_collapses_repeats_drops_blanks_and_ends_with_its_utterance(
    task: ASR,
) -> None:
    logits = logits_of("AA_AB", "_BBBA", task=task, frames=6)
    assert task.decode(logits, torch.tensor([5, 4])) == ["AAB", "B"]


def test_a_device_without_ctc_falls_back_to_the_cpu_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    arguments = torch.randn(6, 2, 4).log_softmax(-1), torch.tensor([1, 2, 3]), [6, 5], [2, 1]
    expected, own, calls = ctc.ctc(*arguments), ctc._ctc, []

    def lacking(*values: Any) -> torch.Tensor:
        calls.append(values)
        if len(calls) == 1:
            raise NotImplementedError("The operator 'aten::_ctc_loss' is not implemented for MPS")
        return own(*values)

    monkeypatch.setattr(ctc, "_LACKING", set())
    monkeypatch.setattr(ctc, "_ctc", lacking)
    assert ctc.ctc(*arguments).equal(expected)
    assert ctc.ctc(*arguments).equal(expected)
    assert len(calls) == 3, "it is tried once"
    assert caplog.messages == ["CTC: this torch has no kernel for cpu; computing it on the CPU"]
