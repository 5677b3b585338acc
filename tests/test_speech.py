"""The whole chain on real recorded speech, small enough for a test."""

from pathlib import Path

import pytest

from mt4ssl_bench.config import load
from mt4ssl_bench.downstream.evaluate import evaluate
from mt4ssl_bench.prepare import prepare_table
from mt4ssl_bench.upstream.config import PretrainConfig
from mt4ssl_bench.upstream.pretrain import open_pretraining

pytestmark = pytest.mark.speech


def test_filter_banks_read_digits_and_speakers_far_above_chance(speech: Path, tmp_path: Path) -> None:
    corpus = prepare_table(speech / "fsdd_strings" / "manifest.tsv", tmp_path / "fsdd")
    assert corpus.info.splits["test"].utterances == 120
    keys = ["sweep=[1e-2]", "steps=250", "validate_every=125"]
    outcome = evaluate(["fbank"], ["phoneme", "speaker"], corpus.root, out=tmp_path / "r", overrides=keys, device="cpu")
    assert not outcome.failures
    per, acc = (result.metrics[result.main_metric] for result in outcome.results)
    assert per.value < 70  # a head that knows nothing gives 90 and more
    assert acc.value > 60  # six speakers


def test_pretraining_on_recordings_learns(speech: Path, tmp_path: Path) -> None:
    corpus = prepare_table(speech / "fsdd_strings" / "manifest.tsv", tmp_path / "fsdd")
    toy = str(Path(__file__).parent / "data" / "toy.yaml")
    keys = [f"data.corpus={corpus.root}", "fit.steps=120", "fit.validate_every=60", "targets.online.weight=0"]
    report = open_pretraining(load(PretrainConfig, toy, keys), device="cpu").run(tmp_path / "run")
    early, late = (found["valid_offline"] for found in report.validations)
    assert late < early
