"""Monitors: label entropy and rank of the targets are what they are called, and warn in time."""

import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from builders import read_log, toy_config
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.training.distributed import ALONE
from mt4ssl_bench.training.monitors import (
    LEAST_RANK,
    PATIENCE,
    TargetStatistics,
    Warnings,
    effective_rank,
)
from mt4ssl_bench.upstream.pretrain import VALID_SEED, Pretraining, open_pretraining


def test_the_rank_is_that_of_the_definition() -> None:
    x = torch.randn(300, 12, generator=torch.Generator().manual_seed(0)) * torch.arange(12)
    for vectors in (x, x[:7]):  # more and fewer vectors than dimensions
        centered = vectors.double().numpy() - vectors.double().numpy().mean(axis=0)
        shares = np.linalg.svd(centered, compute_uv=False)
        shares = shares[shares > 1e-9 * shares[0]] / shares.sum()
        expected = math.exp(-sum(p * math.log(p) for p in shares))
        assert effective_rank(vectors) == pytest.approx(expected, rel=1e-5)


def test_the_rank_counts_equal_directions_and_does_not_see_the_mean() -> None:
    axes = torch.cat([torch.eye(8), -torch.eye(8)]) + 100
    assert effective_rank(axes) == pytest.approx(8)
    line = torch.linspace(-1, 1, 50)[:, None] * torch.ones(8) - 3
    assert effective_rank(line) == pytest.approx(1, abs=1e-4)
    assert effective_rank(torch.full((50, 8), 3.0)) == 0
    assert math.isnan(effective_rank(torch.full((50, 8), math.nan)))


def test_labels_are_counted_over_batches_and_only_since_the_last_line() -> None:
    statistics = TargetStatistics()
    statistics.add(torch.tensor([0, 0, 1]), {})
    statistics.add(torch.tensor([5]), {})
    found = statistics.take(ALONE)
    assert found["label_entropy"] == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(4))
    assert found["label_top_share"] == 0.5
    statistics.add(torch.tensor([4, 4]), {})
    found = statistics.take(ALONE)
    assert (found["label_entropy"], found["label_top_share"]) == (0, 1)
    assert statistics.take(ALONE) == {}


def test_only_the_last_batches_of_vectors_are_kept_and_integers_have_no_rank() -> None:
    statistics = TargetStatistics(2)
    flat, full = torch.ones(9, 4), torch.cat([torch.eye(4), -torch.eye(4)])
    for vectors in (flat, full, full):
        statistics.add(None, {"online": vectors, "offline": torch.ones(9, dtype=torch.long)})
    assert statistics.take(ALONE) == {"online_target_rank": pytest.approx(4)}


@pytest.fixture(scope="module")
def run(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[Pretraining, Path]:
    out = tmp_path_factory.mktemp("monitors") / "run"
    keys = ["fit.steps=4", "fit.validate_every=4", "masking.clones=2", "encoder.dropout=0"]
    job = open_pretraining(toy_config(f"data.corpus={corpus.root}", *keys))
    job.run(out)
    return job, out


def test_the_log_holds_what_the_losses_are_compared_with(run: tuple[Pretraining, Path]) -> None:
    *trained, valid = read_log(run[1])
    keys = {"label_entropy", "label_top_share", "online_target_rank"}
    assert all(keys <= line.keys() for line in trained)
    assert {f"valid_{key}" for key in keys | {"offline_accuracy", "online_target_var"}} <= set(
        valid
    )
    assert all(1 <= line["online_target_rank"] <= 32 for line in trained)
    assert 1 / 8 <= valid["valid_label_top_share"] < 1
    assert 0 < valid["valid_label_entropy"] <= math.log(8)


def test_validation_is_over_all_masked_frames(run: tuple[Pretraining, Path]) -> None:
    job, out = run
    model, labels, right = job.model.eval(), list[Tensor](), 0.0
    with torch.no_grad():
        for number, batch in enumerate(job.valid(0)):
            made = job.forward(model, batch, (VALID_SEED, number), 1, TargetStatistics())
            labels.append(made.targets["offline"])
            logits = model.extractors["offline"].head(made.hidden)
            right += float((logits.argmax(-1) == made.targets["offline"]).sum())
    counts = torch.cat(labels).bincount().double()
    shares = counts[counts > 0] / counts.sum()
    valid = read_log(out)[-1]
    entropy = float(-(shares * shares.log()).sum())
    assert valid["valid_label_entropy"] == pytest.approx(entropy, rel=1e-5)
    assert valid["valid_label_top_share"] == pytest.approx(float(shares.max()), rel=1e-5)
    assert valid["valid_offline_accuracy"] == pytest.approx(right / float(counts.sum()), rel=1e-5)


# ---- warnings ----

HEALTHY = {"offline": 3.9, "label_entropy": 4.4, "online_target_rank": 40.0}


def told(step: int, values: dict[str, float]) -> list[str]:
    return [message for _, message in Warnings(dim=192, warmup=200).found(step, values)]


@pytest.mark.parametrize(
    ("step", "changed", "expected"),
    [
        (2000, {}, []),
        (200 + PATIENCE, {"offline": 4.39}, ["optim.lr"]),
        (199 + PATIENCE, {"offline": 4.39}, []),  # a healthy run sits there at first
        (201, {"online_target_rank": 192 * LEAST_RANK - 0.1}, ["targets.online.ema_start"]),
        (100, {"online_target_rank": 1.0}, []),
        (2000, {"online_target_rank": math.nan}, []),
        (2000, {"offline": 4.45, "online_target_rank": 2.0}, ["optim.lr", "ema_start"]),
    ],
)
def test_plateau_and_collapse_are_named_with_the_keys_to_change(
    step: int, changed: dict[str, float], expected: list[str]
) -> None:
    messages = told(step, {**HEALTHY, **changed})
    assert len(messages) == len(expected)
    assert all(key in message for key, message in zip(expected, messages, strict=True))


def test_a_run_without_labels_or_teacher_has_nothing_to_warn_of() -> None:
    assert told(2000, {"online": 0.1}) == []
    assert told(2000, {"online": 0.1, "online_target_rank": 60.0}) == []
    assert told(2000, {"offline": 3.0, "label_entropy": 4.4}) == []


def test_a_run_warns_once(
    corpus: Corpus,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mt4ssl_bench.training.monitors.PATIENCE", 1)
    monkeypatch.setattr("mt4ssl_bench.training.monitors.LEAST_RANK", 0.99)
    keys = ["fit.steps=5", "fit.log_every=1", "optim.lr=1e-9"]
    with caplog.at_level(logging.WARNING):
        open_pretraining(toy_config(f"data.corpus={corpus.root}", *keys)).run(tmp_path / "run")
    found = [r.getMessage() for r in caplog.records if r.name.endswith("monitors")]
    assert len(found) == 2
    assert sum("the labels are not learned: cross entropy" in line for line in found) == 1
    assert sum("targets collapse: online_target_rank is" in line for line in found) == 1
