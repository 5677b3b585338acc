"""The whole chain on real recorded speech, small enough for a test."""

from pathlib import Path

import pytest

from mt4ssl_bench.config import load
from mt4ssl_bench.downstream.evaluate import evaluate
from mt4ssl_bench.prepare import prepare_table
from mt4ssl_bench.upstream.config import PretrainConfig
from mt4ssl_bench.upstream.pretrain import open_pretraining

pytestmark = pytest.mark.speech


TOY = str(Path(__file__).parent / "data" / "toy.yaml")


def test_filter_banks_read_digits_and_an_untrained_model_knows_speakers(
    speech: Path, tmp_path: Path
) -> None:
    corpus = prepare_table(speech / "fsdd_strings" / "manifest.tsv", tmp_path / "fsdd")
    assert corpus.info.splits["test"].utterances == 120
    keys = ["sweep=[1e-2]", "steps=250", "validate_every=125"]
    folder = tmp_path / "results"
    digits = evaluate(
        ["fbank"], ["phoneme"], corpus.root, out=folder, overrides=keys, device="cpu"
    ).results[0]
    assert digits.metrics["per"].value < 70  # a head that knows nothing gives 85 and more
    # s3prl's filter banks lose each utterance's mean, and with it what a pooled linear head could tell speakers by
    keys += ["crop_seconds=0", "crops=1", "test_crop_seconds=0"]
    voices = evaluate(
        [f"random:{TOY}"], ["speaker"], corpus.root, out=folder, overrides=keys, device="cpu"
    ).results[0]
    assert voices.metrics["acc"].value > 30  # six speakers: chance is 17 +- 3


@pytest.mark.long
def test_pretraining_on_recordings_learns(speech: Path, tmp_path: Path) -> None:
    corpus = prepare_table(speech / "fsdd_strings" / "manifest.tsv", tmp_path / "fsdd")
    keys = [
        f"data.corpus={corpus.root}",
        "fit.steps=120",
        "fit.validate_every=60",
        "targets.online.weight=0",
    ]
    report = open_pretraining(load(PretrainConfig, TOY, keys)).run(tmp_path / "run")
    early, late = (found["valid_offline"] for found in report.validations)
    assert late < early
