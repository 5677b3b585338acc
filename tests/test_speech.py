"""The whole chain on real recorded speech, small enough for a test."""

import json
from pathlib import Path

import pytest

from mt4ssl_bench.config import load
from mt4ssl_bench.corpora.prepare_source import prepare_path
from mt4ssl_bench.downstream.evaluate import evaluate
from mt4ssl_bench.upstream.config import PretrainConfig
from mt4ssl_bench.upstream.pretrain import open_pretraining

pytestmark = pytest.mark.speech


DATA = Path(__file__).parent / "fixtures"
TOY = str(DATA / "toy.yaml")


def test_filter_banks_read_digits_and_an_untrained_model_knows_speakers(
    speech: Path, tmp_path: Path
) -> None:
    corpus = prepare_path("table", speech / "fsdd_strings" / "manifest.tsv", tmp_path / "fsdd")
    assert corpus.info.splits["test"].utterances == 120
    keys = ["sweep=[1e-2]", "steps=250", "validate_every=125"]
    folder = tmp_path / "results"
    digits = evaluate(
        ["fbank"], ["phoneme"], corpus.root, out=folder, overrides=keys, device="cpu"
    ).results[0]
    assert digits.metrics["per"].value < 70  # a head that knows nothing gives 85 and more
    # s3prl's filter banks lose each utterance's mean, and with it what a pooled linear head could
    # tell speakers by
    keys += ["crop_seconds=0", "crops=1", "test_crop_seconds=0"]
    voices = evaluate(
        [f"random:{TOY}"], ["speaker"], corpus.root, out=folder, overrides=keys, device="cpu"
    ).results[0]
    assert voices.metrics["acc"].value > 30  # six speakers: chance is 17 +- 3


@pytest.mark.long
def test_both_targets_together_learn_on_recordings(speech: Path, tmp_path: Path) -> None:
    corpus = prepare_path("table", speech / "fsdd_strings" / "manifest.tsv", tmp_path / "fsdd")
    keys = [f"data.corpus={corpus.root}", "fit.steps=600", "fit.validate_every=600"]
    keys += ["targets.online.ema_steps=480"]
    report = open_pretraining(load(PretrainConfig, "mt4ssl_tiny", keys)).run(tmp_path / "run")
    (end,) = report.validations
    labels = next((corpus.root / "labels").glob("*/labels.json")).read_text(encoding="utf-8")
    unigram = json.loads(labels)["report"]["entropy_nats"]
    assert end["valid_offline"] < unigram - 0.3  # what a model knows that reads no audio
    with (tmp_path / "run" / "log.jsonl").open(encoding="utf-8") as log:
        start = json.loads(log.readline())
    # the teacher moves, so the regression does not fall at every look
    assert end["valid_online"] < start["online"] / 2


@pytest.mark.long
def test_the_loss_curve_is_the_kept_one(speech: Path, tmp_path: Path) -> None:
    kept = json.loads((DATA / "loss_curve.json").read_text(encoding="utf-8"))
    corpus = prepare_path("table", speech / "fsdd_strings" / "manifest.tsv", tmp_path / "fsdd")
    keys = [f"data.corpus={corpus.root}", "fit.steps=50", "fit.log_every=1"]
    open_pretraining(load(PretrainConfig, "mt4ssl_tiny", keys)).run(tmp_path / "run")
    lines = (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    log = [row for row in map(json.loads, lines) if "lr" in row]
    assert len(log) == 50
    for loss in ("offline", "online"):
        # one thread and two differ by 2e-6 of a loss
        assert [row[loss] for row in log] == pytest.approx(kept[loss], rel=1e-3)
