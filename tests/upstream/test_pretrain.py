"""The pretraining job: it learns, it resumes exactly after any death, and it stops when it must."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from builders import TOY, Prefork, identical, largest_difference, read_log, toy_config, weights_of
from mt4ssl_bench import checkpoint
from mt4ssl_bench.clustering.config import OfflineConfig
from mt4ssl_bench.clustering.make_labels import make_labels
from mt4ssl_bench.config import load
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.errors import BenchError, CheckpointError, TrainingError
from mt4ssl_bench.upstream import encoder, pretrain
from mt4ssl_bench.upstream.config import PretrainConfig
from mt4ssl_bench.upstream.pretrain import open_pretraining

LABELS = OfflineConfig(clusters=8)


def config(corpus: Corpus, *overrides: str) -> PretrainConfig:
    return toy_config(f"data.corpus={corpus.root}", *overrides)


def test_both_losses_fall_and_everything_is_logged(corpus: Corpus, tmp_path: Path) -> None:
    run = tmp_path / "run"
    report = open_pretraining(
        config(corpus, "fit.steps=60", "fit.log_every=20", "optim.lr=3e-3")
    ).run(run)
    assert report.finished
    first, *_, last = (line for line in read_log(run) if "lr" in line)
    assert last["offline"] < first["offline"]
    assert last["online"] < first["online"]
    assert first["offline"] == pytest.approx(2.08, abs=0.6)  # about ln 8: nothing is known yet
    expected = {
        "online_target_var",
        "online_pred_var",
        "online_ema_decay",
        "lr",
        "audio_seconds_per_second",
        "offline_accuracy",
    }
    assert expected <= last.keys()
    assert last["online_ema_decay"] == pytest.approx(0.9999 - 0.0009 * (1 - 60 / 5000))
    assert any("valid_offline" in line and "valid_online" in line for line in read_log(run))
    stored = checkpoint.load(run / "checkpoint.pt")
    assert stored["step"] == 60
    assert json.loads((run / "config.json").read_text()) == stored["config"]


def test_the_same_seed_gives_the_same_weights(corpus: Corpus, tmp_path: Path) -> None:
    prints = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        open_pretraining(config(corpus, f"fit.seed={seed}")).run(tmp_path / name)
        prints.append(checkpoint.fingerprint(weights_of(tmp_path / name)))
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.long
def test_a_run_killed_twenty_times_ends_with_the_same_weights(
    corpus: Corpus, tmp_path: Path, prefork: Prefork
) -> None:
    def command(name: str) -> list[str]:
        keys = [
            "fit.steps=100",
            "fit.save_every=1",
            "fit.log_every=1",
            "fit.validate_every=40",
            "optim.lr=2e-3",
        ]
        return [
            "pretrain",
            TOY,
            f"data.corpus={corpus.root}",
            *keys,
            "--device",
            "cpu",
            "--out",
            str(tmp_path / name),
        ]

    whole, _ = prefork.start(*command("whole"))
    assert prefork.wait(whole) == 0
    chance = random.Random(0)  # noqa: S311
    run = tmp_path / "killed"
    for kill in range(20):
        child, said = prefork.start(*command("killed"))
        if kill % 4:  # not before it has got a little further
            while log_steps(run)[-1:] < [4 * kill]:
                time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.1 if kill % 4 else 1.0))
        os.kill(child, signal.SIGKILL)
        assert prefork.wait(child) == -signal.SIGKILL, said.read_text()
    child, said = prefork.start(*command("killed"))
    assert prefork.wait(child) == 0, said.read_text()
    ends = [checkpoint.load(tmp_path / name / "checkpoint.pt") for name in ("whole", "killed")]
    assert identical(*ends)  # model, teacher, optimiser, place
    assert [line["step"] for line in read_log(run)] == [
        line["step"] for line in read_log(tmp_path / "whole")
    ]


def log_steps(run: Path) -> list[int]:
    steps = []
    for line in (
        (run / "log.jsonl").read_text().splitlines() if (run / "log.jsonl").exists() else []
    ):
        try:
            steps.append(int(json.loads(line)["step"]))
        except ValueError:  # caught while it was being written
            break
    return steps


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_saves_and_the_same_command_continues(
    corpus: Corpus, tmp_path: Path, sent: signal.Signals
) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "mt4ssl_bench", "pretrain", TOY, f"data.corpus={corpus.root}"]
    command += ["fit.steps=100000", "fit.save_every=100000", "data.workers=2", "--out", str(run)]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (run / "log.jsonl").exists():
        assert child.poll() is None
        time.sleep(0.02)
    # a terminal and a launcher send it to the whole group, the loader processes among it
    os.killpg(child.pid, sent)
    said = child.communicate()[1]
    assert child.returncode == 130
    assert said.count("stopping after this update") == 1
    assert "same command continues" in said
    assert "Traceback" not in said
    assert checkpoint.load(run / "checkpoint.pt")["step"] >= 1


def test_a_finished_run_returns_at_once_and_other_settings_are_refused(
    corpus: Corpus, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    open_pretraining(config(corpus)).run(run)
    assert open_pretraining(config(corpus)).run(run).finished
    before = (run / "config.json").read_bytes()
    with pytest.raises(
        CheckpointError, match=r"other settings \(optim.lr: 0.001 there, 0.002 here\)"
    ):
        open_pretraining(config(corpus, "optim.lr=2e-3")).run(run)
    assert (run / "config.json").read_bytes() == before


@pytest.mark.parametrize("made_by", [True, False])  # stores of other sources state no digest
def test_a_run_does_not_continue_with_other_labels_of_as_many_clusters(
    corpus: Corpus,
    tmp_path: Path,
    made_by: bool,  # noqa: FBT001
) -> None:
    run, folder = tmp_path / "run", tmp_path / "labels"
    key = f"targets.offline.labels={folder}"

    def label(seed: int) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        store = make_labels([corpus], ("train", "valid"), LABELS, out=folder, seed=seed)
        if not made_by:
            info = {**asdict(store.info), "made_by": ""}
            (folder / "labels.json").write_text(json.dumps(info))

    label(0)
    open_pretraining(config(corpus, key, "fit.steps=2")).run(run)
    label(1)
    with pytest.raises(CheckpointError) as error:
        open_pretraining(config(corpus, key, "fit.steps=2")).run(run)
    assert "other settings (labels: mfcc (" in str(error.value)
    assert "repeat its own settings and labels" in str(error.value)
    stored = checkpoint.load(run / "checkpoint.pt")
    del stored["labels"]  # as of a run that began before this was stored
    checkpoint.save(stored, run / "checkpoint.pt")
    assert open_pretraining(config(corpus, key, "fit.steps=2")).run(run).finished


def test_the_same_labels_made_again_continue_a_run(corpus: Corpus, tmp_path: Path) -> None:
    key = f"targets.offline.labels={tmp_path / 'labels'}"
    for _ in range(2):
        shutil.rmtree(tmp_path / "labels", ignore_errors=True)
        make_labels([corpus], ("train", "valid"), LABELS, out=tmp_path / "labels", seed=0)
        assert open_pretraining(config(corpus, key, "fit.steps=2")).run(tmp_path / "run").finished


def test_a_run_without_labels_stores_none(corpus: Corpus, tmp_path: Path) -> None:
    open_pretraining(config(corpus, "targets.offline.weight=0", "fit.steps=1")).run(tmp_path)
    assert "labels" not in checkpoint.load(tmp_path / "checkpoint.pt")


def test_a_collapsed_run_stops_with_advice(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"collapse at update 2: online_target_var .*ema_start"):
        open_pretraining(config(corpus, "collapse_step=2", "min_target_var=100")).run(
            tmp_path / "run"
        )


def test_one_extractor_alone_trains(corpus: Corpus, tmp_path: Path) -> None:
    for name in ("offline", "online"):
        run = tmp_path / name
        open_pretraining(config(corpus, f"targets.{name}.weight=0")).run(run)
        assert name not in read_log(run)[-2]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("encoder.heads=3", "heads=3: encoder.dim=32"),
        ("targets.online.top_k=9", "top_k=9: encoder.layers is 2"),
        ("masking.clones=0", "masking.clones=0: expected 1 or more"),
        ("optim.lr=-1", "optim.lr=-1.0: expected a number above 0"),
        ("optim.lr=nan", "optim.lr=nan: expected a number above 0"),
        (
            "optim.phases=0.5,0.4,0.3",
            r"optim.phases=\(0.5, 0.4, 0.3\): expected shares that add up to 1",
        ),
        ("fit.steps=-5", "fit.steps=-5: expected 1 or more"),
        ("fit.save_every=0", "fit.save_every=0"),
        ("masking.length=0", "masking.length=0"),
        (
            "targets.online.ema_start=2",
            "targets.online.ema_start=2.0: expected a number from 0 to 1",
        ),
        ("targets.offline.weight=-1", "targets.offline.weight=-1.0: expected 0 or more"),
        ("encoder.dropout=2", "encoder.dropout=2.0"),
        ("data.workers=-1", "data.workers=-1"),
        ("data.max_seconds=.inf", "data.max_seconds=inf: expected a number above 0"),
        ("fit.seed=-1", "fit.seed=-1: expected a whole number from 0"),
        ("fit.seed=99999999999999999999999", "fit.seed=9+: expected a whole number from 0"),
        ("optim.betas=[0.9,1.0]", "optim.betas=.*: expected two numbers from 0 to below 1"),
        ("optim.final_scale=0", "optim.final_scale=0.0: expected a number above 0"),
        ("masking={min_masks: 0, prob: 0.3}", "masking.min_masks=0: expected 1 or more; .* 0.5 s"),
        ("targets.offline.clusters=70000", "clusters=70000: expected 2 to 65536"),
        ("data.batch_seconds=0", "data.batch_seconds=0.0"),
        ("data.train=trian", "did you mean train"),
        ("targets.offline.labels=/nowhere", "mt4ssl-bench kmeans"),
        ("targets={offline: {weight: 0}, online: {weight: 0}}", "all weights are 0"),
    ],
)
def test_keys_that_do_not_fit_are_refused_before_any_work(
    corpus: Corpus, tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(BenchError, match=message):
        open_pretraining(config(corpus, override)).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_values_that_fit_others_are_taken(corpus: Corpus, tmp_path: Path) -> None:
    """No batch is without masks at min_seconds=0.5, and a constant rate has no decay."""
    taken = config(corpus, "masking.min_masks=0", "optim={schedule: constant, final_scale: 0}")
    assert open_pretraining(taken).run(tmp_path / "run").finished


@pytest.mark.long
def test_the_base_recipe_takes_three_updates_at_the_papers_size(
    corpus: Corpus, tmp_path: Path
) -> None:
    shapes = [
        "data.batch_seconds=4",
        "data.workers=0",
        "data.min_seconds=0.5",
        "targets.offline.clusters=20",
    ]
    recipe = load(
        PretrainConfig,
        "mt4ssl_base",
        [f"data.corpus={corpus.root}", *shapes, "fit.steps=3", "fit.log_every=1"],
    )
    open_pretraining(recipe).run(tmp_path / "run")
    lines = [line for line in read_log(tmp_path / "run") if "lr" in line]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(line["online_target_var"] > 0.1 for line in lines)


# ---- precision, compilation, memory ----


def trained(corpus: Corpus, run: Path, *keys: str) -> dict[str, torch.Tensor]:
    open_pretraining(config(corpus, "optim.lr=2e-3", "optim.phases=[0,1,0]", *keys)).run(run)
    return weights_of(run)


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_half_precision_makes_nearly_the_same_updates_and_keeps_fp32_weights(
    corpus: Corpus, tmp_path: Path, kind: str
) -> None:
    full, half = (trained(corpus, tmp_path / key, f"fit.autocast={key}") for key in ("none", kind))
    assert {value.dtype for value in half.values()} == {torch.float32}
    assert 0 < largest_difference(full, half) < 0.03  # six updates of 2e-3 move a weight by 0.012
    for ours, theirs in zip(read_log(tmp_path / "none"), read_log(tmp_path / kind), strict=True):
        for key in {"offline", "online", "online_target_var", "valid_offline"} & ours.keys():
            assert ours[key] == pytest.approx(theirs[key], rel=0.03), key
    scale = checkpoint.load(tmp_path / kind / "checkpoint.pt")["scaler"].get("scale")
    assert scale == (128.0 if kind == "fp16" else None)


def test_losses_and_targets_stay_in_fp32_under_autocast(corpus: Corpus) -> None:
    pretraining = open_pretraining(config(corpus, "fit.autocast=bf16"))
    online = pretraining.model.extractors["online"]
    seen: list[torch.dtype] = []
    original = online.loss

    def loss(hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.extend([online.head(hidden).dtype, targets.dtype])
        return original(hidden, targets)

    online.loss = loss
    part = pretraining.loss(next(iter(pretraining.train(0))), 0, 0)
    assert seen == [torch.bfloat16, torch.float32]
    assert {part.total.dtype, *(value.dtype for value in part.sums.values())} == {torch.float32}


def test_recomputed_activations_give_the_same_gradients(corpus: Corpus, tmp_path: Path) -> None:
    grads = []
    for again in ("false", "true"):
        keys = ["encoder.layer_drop=0.3", "encoder.layers=4", f"fit.checkpointing={again}"]
        pretraining = open_pretraining(config(corpus, *keys))
        pretraining.model.train()
        batch = next(iter(pretraining.train(0)))
        torch.manual_seed(5)
        pretraining.loss(batch, 0, 0).total.backward()
        grads.append({name: p.grad for name, p in pretraining.model.named_parameters()})
    assert identical(*grads)
    assert sum(grad is not None for grad in grads[0].values()) > 20


@pytest.mark.long
def test_compiled_layers_keep_names_and_updates_and_may_be_switched_on_midway(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Callable[..., Any]] = []

    @cache
    def compile_fast(function: Callable[..., Any]) -> Callable[..., Any]:
        """Trace the whole layer as inductor would, without its minutes of C++."""
        compiled.append(function)
        return torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=True)

    monkeypatch.setattr(encoder, "compiled", compile_fast)
    # this backend needs no compiler
    monkeypatch.setattr(pretrain, "lacking", lambda device: "")  # noqa: ARG005
    keys = ["encoder.dropout=0", "encoder.attention_dropout=0", "fit.steps=3"]
    plain = trained(corpus, tmp_path / "plain", *keys)
    run = tmp_path / "compiled"
    assert largest_difference(plain, trained(corpus, run, *keys, "fit.compile=true")) < 1e-5
    assert compiled == [encoder.EncoderLayer.forward]
    model = pretrain.build_model(config(corpus, *keys, "fit.compile=true"), "cpu")
    encoders = [module for module in model.modules() if isinstance(module, encoder.Encoder)]
    assert [each.compiled for each in encoders] == [True, True]  # student's and teacher's
    assert trained(corpus, run, *keys).keys() == plain.keys()  # continued without


def test_how_a_run_is_computed_may_change_on_its_way_but_not_what(
    corpus: Corpus, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    open_pretraining(config(corpus)).run(run)
    changed = ["fit.checkpointing=true", "fit.accumulate=2", "fit.log_every=1", "data.workers=1"]
    assert open_pretraining(config(corpus, *changed)).run(run).finished
    for key in ("fit.autocast=bf16", "masking.prob=0.5", "fit.steps=7"):
        with pytest.raises(CheckpointError, match="other settings"):
            open_pretraining(config(corpus, key)).run(run)
