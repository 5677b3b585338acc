"""Heads on single hidden states: all layers in one sweep are each layer by itself, and a record
names the best one.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from builders import recipe, run
from fakes import Mirrored, Noise, Spectrum
from mt4ssl_bench import results
from mt4ssl_bench.corpora.prepare import prepare
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import text_of
from mt4ssl_bench.downstream.dry_run import estimate
from mt4ssl_bench.downstream.evaluate import evaluate
from mt4ssl_bench.downstream.heads.weighted_sum import WeightedSum
from mt4ssl_bench.downstream.layers.single_layers import read_one_layer
from mt4ssl_bench.downstream.plan import plan
from mt4ssl_bench.downstream.training import fold_heads
from mt4ssl_bench.downstream.training.sweep import Split, Sweep
from mt4ssl_bench.downstream.transcribe import Recognizer
from mt4ssl_bench.encoders import load
from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.results.leaderboard import Leaderboard
from mt4ssl_bench.results.record import Result

LAYERS, DIM = Noise.layers, Noise.dim
KEYS = ["steps=6", "validate_every=3", "clip_norm=0.5", "accumulate=2", "sweep=[0.1, 0.01]"]
LSTM = ["head.dropout=0.2"]  # SpecAugment would mask all 12 channels


class OneHot(WeightedSum):
    """A weighted sum whose weights are 1 for one layer and 0 for the others, and stay so."""

    def __init__(self, layer: int, *, layer_norm: bool) -> None:
        super().__init__(LAYERS, layer_norm=layer_norm)
        del self.scores
        self.chosen = layer

    @property
    def weights(self) -> Tensor:
        return torch.eye(LAYERS)[self.chosen]


def sweep(corpus: Corpus, name: str, *keys: str, only: int | None = None) -> tuple[Sweep, int]:
    """Train a sweep; return it and the number of batches that it read.

    With `only`, the heads have a OneHot for their weighted sum.
    """
    job = plan(recipe(name), corpus, [*KEYS, *(LSTM if name == "asr" else []), *keys])
    task: Any = job.kind(job.config)
    task.fit_units(job.cuts("train"))
    features = Noise(pooled=task.pooled)
    train, valid = (
        Split(job.cuts(role), features, pooled=task.pooled, device="cpu")
        for role in ("train", "valid")
    )
    made = Sweep(task, LAYERS, DIM, device="cpu")
    for head in made.heads if only is not None else ():
        head.sum = OneHot(only or 0, layer_norm=job.training.head.layer_norm)
    made.run(train, valid)
    return made, features.reads


def weights(made: Sweep) -> list[dict[str, Tensor]]:
    """Return the best weights of each run, without those of the sum."""
    return [{k: v for k, v in (run.state or {}).items() if k != "sum.scores"} for run in made.runs]


@pytest.mark.parametrize("name", ["phoneme", "speaker", "asr"])
@pytest.mark.parametrize("norm", ["head.layer_norm=false", "head.layer_norm=true"])
def test_one_layer_is_a_weighted_sum_whose_weights_are_fixed_at_it(
    corpus: Corpus, name: str, norm: str
) -> None:
    layer, _ = sweep(corpus, name, "layer=2", norm)
    fixed, _ = sweep(corpus, name, norm, only=2)
    other, _ = sweep(corpus, name, norm, only=1)
    assert [run.best for run in layer.runs] == [run.best for run in fixed.runs]
    for ours, theirs, wrong in zip(weights(layer), weights(fixed), weights(other), strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            exact = 1e-5 if name == "asr" else 1e-6  # matrix products by the layout of their input
            torch.testing.assert_close(value, theirs[key], atol=exact, rtol=exact)
        assert any(not value.allclose(wrong[key], atol=1e-3) for key, value in ours.items())


@pytest.mark.parametrize("name", ["phoneme", "speaker", "asr"])
def test_all_layers_in_one_sweep_are_each_by_itself_and_read_the_features_once(
    corpus: Corpus, name: str
) -> None:
    together, reads = sweep(corpus, name, "layers=all", "seeds=0,1")
    names = [(run.layer, run.seed, run.lr) for run in together.runs]
    rates, numbers = (0.1, 0.01), range(LAYERS)
    assert names == [(n, seed, lr) for n in numbers for seed in (0, 1) for lr in rates]
    _, once = sweep(corpus, name, "lr=0.1")
    assert reads == once
    for layer in range(LAYERS):
        alone, _ = sweep(corpus, name, f"layer={layer}", "seeds=0,1")
        ours = [run for run in together.runs if run.layer == layer]
        assert [run.best for run in ours] == [run.best for run in alone.runs]
        for a, b in zip(ours, alone.runs, strict=True):
            assert a.state is not None
            assert b.state is not None
            for key, value in a.state.items():
                torch.testing.assert_close(value, b.state[key], atol=2e-5, rtol=1e-4)


def test_a_fixed_sum_keeps_its_layer_on_the_disk() -> None:
    head, again = (torch.nn.Sequential(WeightedSum(LAYERS, layer_norm=False)) for _ in range(2))
    read_one_layer(head, 1)
    again.load_state_dict(head.state_dict())
    x = torch.randn(LAYERS, 2, 5, DIM)
    assert head(x).equal(x[1])
    assert again(x).equal(x[1])
    assert not [p for p in head.parameters() if p.requires_grad]


class Ladder(Spectrum):
    """A spectrum under noise that falls from layer to layer: each is better than the one before."""

    num_layers = 3

    def extract(self, waveforms: Tensor, lengths: Tensor) -> Any:
        (x, _), lengths = super().extract(waveforms, lengths)
        noise = torch.randn(x.shape[-2:], generator=torch.Generator().manual_seed(0))
        return type(super().extract(waveforms, lengths))(
            torch.stack([x * scale + 3 * noise for scale in (0.0, 0.3, 3.0)]), lengths
        )


@pytest.fixture
def ladder(monkeypatch: pytest.MonkeyPatch) -> Ladder:
    made = Ladder("ladder")
    monkeypatch.setattr(load, "load_upstream", lambda name, device: made)  # noqa: ARG005
    return made


def made(corpus: Corpus, out: Path, task: str, *keys: str) -> Result:
    outcome = evaluate(["ladder"], [task], corpus.root, out=out, device="cpu", overrides=keys)
    assert not outcome.failures
    return outcome.results[0]


@pytest.mark.usefixtures("ladder")
@pytest.mark.parametrize("name", ["phoneme", "speaker", "asr"])
def test_the_record_has_every_layers_scores_and_the_best_on_valid_counts(
    corpus: Corpus, tmp_path: Path, name: str
) -> None:
    result = made(corpus, tmp_path, recipe(name), "layers=all")
    summed = made(corpus, tmp_path, recipe(name))
    assert result.key != summed.key
    assert result.protocol != summed.protocol
    assert summed.layer is None
    assert not summed.layer_scores
    assert result.settings["layers"] == "all"
    rows = result.layer_scores[result.main_metric]
    assert [row["layer"] for row in rows] == [0, 1, 2]
    assert list(result.layer_scores) == list(result.metrics)
    scores = [trial["valid"] for trial in result.sweep if trial["valid"] is not None]
    pick = max if result.main.higher_is_better else min
    assert rows[result.layer or 0]["valid"] == pick(scores)
    for layer, row in enumerate(rows):
        own = [t["valid"] for t in result.sweep if t["layer"] == layer and t["valid"] is not None]
        assert row["valid"] == pick(own)
        alone = made(corpus, tmp_path, recipe(name), f"layer={layer}")
        assert alone.main.value == pytest.approx(row["value"])
        assert (alone.main.low, alone.main.high) == pytest.approx((row["low"], row["high"]))
    for metric, score in result.metrics.items():
        row = result.layer_scores[metric][result.layer or 0]
        assert (row["value"], row["low"], row["high"]) == (score.value, score.low, score.high)
    chosen = next(trial for trial in result.sweep if trial["chosen"])
    assert (chosen["layer"], result.chosen_on) == (result.layer, "valid")
    assert results.load(results.record_path(result, tmp_path)) == result


@pytest.mark.usefixtures("ladder")
def test_the_leaderboard_never_mixes_them_with_the_weighted_sum(
    corpus: Corpus, tmp_path: Path
) -> None:
    made(corpus, tmp_path, recipe("phoneme"))
    single = made(corpus, tmp_path, recipe("phoneme"), "layers=1-2")
    board = Leaderboard.from_folder(tmp_path)
    summed, of_layers = board.tables[0].columns
    assert "layers" not in summed.label
    assert of_layers.label.endswith(", layers=1-2)")
    assert (summed.ranked, of_layers.ranked) == (True, False)
    assert f"best: ladder layer {single.layer} (of valid) at " in board.to_markdown()
    shown = run("show", results.record_path(single, tmp_path)).stdout
    assert f"layer {single.layer} is the best on valid" in shown
    sweep = shown.partition("by learning rate")[2].partition("\n\n")[0]
    assert [row.split()[1] for row in sweep.splitlines()[3:-1]] == ["1", "2"]


@pytest.mark.usefixtures("ladder")
def test_each_fold_is_tested_by_heads_of_the_others_on_every_layer(
    corpus: Corpus, tmp_path: Path
) -> None:
    rows = [
        Row(
            id=cut.id,
            path=Path(str(cut.recording.sources[0].source)),
            split="train",
            labels={"fold": str(n % 3), "emotion": ("sad", "glad")["HIGH" in text_of(cut)]},
        )
        for n, cut in enumerate(cut for split in corpus.info.splits for cut in corpus.cuts(split))
    ]
    folds = prepare(rows, tmp_path / "folds", source=tmp_path, name="folds", synthetic=True)
    keys = ["sweep=0.1,0.01", "steps=20", "validate_every=20"]
    result = made(folds, tmp_path / "out", "emotion_tiny", "layers=0-2", *keys)
    for row in result.layer_scores["fold_acc"]:
        alone = made(folds, tmp_path / "out", "emotion_tiny", f"layer={row['layer']}", *keys)
        assert row["value"] == pytest.approx(alone.main.value)
        (valid,) = {t["valid"] for t in alone.sweep if t["chosen"]}
        assert row["valid"] == pytest.approx(valid)
    assert result.layer == max(result.layer_scores["fold_acc"], key=lambda r: r["valid"])["layer"]


def test_a_lost_record_is_scored_again_from_the_trained_heads_of_all_layers(
    corpus: Corpus, tmp_path: Path, ladder: Ladder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made(corpus, tmp_path, recipe("asr"), "layers=all")
    results.record_path(first, tmp_path).unlink()
    monkeypatch.setattr(fold_heads, "train_sweeps", None)  # it must not be called
    again = made(corpus, tmp_path, recipe("asr"), "layers=all")
    assert (again.layer_scores, again.metrics) == (first.layer_scores, first.metrics)
    (folder,) = (tmp_path / "runs").iterdir()
    monkeypatch.setattr("mt4ssl_bench.downstream.transcribe.load_upstream", lambda *_, **__: ladder)
    reader = Recognizer(folder)
    said = {row["id"]: row for row in results.load_hypotheses(results.record_path(first, tmp_path))}
    for cut in corpus.cuts("test"):
        assert reader.text(audio.read(cut)) == said[cut.id]["hypothesis"]


@pytest.mark.parametrize("key", ["layer", "layers"])
def test_one_layer_is_one_setting_however_it_is_written(corpus: Corpus, key: str) -> None:
    job = plan(recipe("phoneme"), corpus, [f"{key}=1"])
    assert job.config.identity()["layers"] == "1"
    assert plan(recipe("phoneme"), corpus, ["layers=1-1"]).key(Mirrored()) == job.key(Mirrored())


@pytest.mark.parametrize("text", ["3-1", "-1", "1-", "first", "1.5", "1-2-3", "0,2"])
def test_what_is_no_range_is_refused_before_any_work(corpus: Corpus, text: str) -> None:
    with pytest.raises(ConfigError, match=r"^layers=.*: expected a hidden state \(layer=9\)"):
        plan(recipe("phoneme"), corpus, [f"layers={text}"])


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (["layer=-1"], "layer=-1: expected a hidden state"),
        (["layers="], "override 'layers=': key 'layers': "),
        (["layer=1", "layers=0-1"], "layer=1 layers=0-1: expected one of the two keys"),
    ],
)
def test_other_wrong_keys_are_refused(corpus: Corpus, keys: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        plan(recipe("phoneme"), corpus, keys)


def test_finetuning_and_tasks_without_heads_refuse_them(corpus: Corpus) -> None:
    with pytest.raises(ConfigError, match=r"layers=1: mode=finetune .* or tune.layer"):
        plan(recipe("asr_finetune"), corpus, ["layer=1"])
    with pytest.raises(ConfigError, match="task 'abx' does not read it, only asr, "):
        plan("abx", corpus, ["layers=1"])


@pytest.mark.parametrize(("text", "missing"), [("layer=3", 3), ("layers=2-9", 3), ("layer=7", 7)])
def test_a_layer_that_does_not_exist_fails_before_any_pass(
    corpus: Corpus, tmp_path: Path, ladder: Ladder, text: str, missing: int
) -> None:
    reason = f"the upstream has no layer {missing}; expected hidden states from 0 to 2"
    outcome = evaluate(
        ["l"], [recipe("phoneme")], corpus.root, out=tmp_path, device="cpu", overrides=[text]
    )
    assert ladder.calls == 0
    planned = estimate(
        ["l"], [recipe("phoneme")], corpus.root, out=tmp_path, device="cpu", overrides=[text]
    )
    for failures in (outcome.failures, planned.failures):
        assert len(failures) == 1
        assert reason in failures[0]
        assert "\n" not in failures[0]


@pytest.mark.usefixtures("ladder")
def test_the_estimate_counts_the_heads_of_all_layers(corpus: Corpus, tmp_path: Path) -> None:
    planned = estimate(
        ["l"], [recipe("phoneme")], corpus.root, out=tmp_path, overrides=["layers=all", "seeds=0,1"]
    )
    (row,) = planned.rows
    assert "12 heads at once" in row.about  # 3 layers, 2 rates, 2 seeds
