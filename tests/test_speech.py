"""The whole chain on real recorded speech, small enough for a test."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mt4ssl_bench.config import load
from mt4ssl_bench.corpora.prepare_source import prepare_path
from mt4ssl_bench.data.audio import RATE
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.frame_grid import STRIDE
from mt4ssl_bench.data.label_store import LabelStore, write_labels
from mt4ssl_bench.data.labels import LabelInfo
from mt4ssl_bench.downstream.evaluate import evaluate
from mt4ssl_bench.upstream.config import PretrainConfig
from mt4ssl_bench.upstream.pretrain import open_pretraining

pytestmark = pytest.mark.speech


DATA = Path(__file__).parent / "fixtures"
TOY = str(DATA / "toy.yaml")


@pytest.mark.long
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
@pytest.mark.timeout(1200)  # five minutes on a slow core
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


def loudness_labels(corpus: Corpus, folder: Path) -> LabelStore:
    """Write labels of whole-number arithmetic: k-means ends elsewhere on another processor."""
    labels = []
    for cut in itertools.chain(corpus.cuts("train"), corpus.cuts("valid")):
        samples, rate = soundfile.read(str(cut.recording.sources[0].source), dtype="int16")
        assert rate == RATE
        frames = np.abs(samples[: len(samples) // STRIDE * STRIDE].astype(np.int64))
        sums = frames.reshape(-1, STRIDE).sum(axis=1).tolist()
        # four labels for each doubling: the number of bits, and the two below the highest
        octaves = [4 * total.bit_length() + (8 * total >> total.bit_length()) % 4 for total in sums]
        labels.append((cut.id, np.array(octaves)))
    return write_labels(folder, LabelInfo(digest=corpus.info.digest, clusters=100), labels)


def losses(speech: Path, folder: Path) -> dict[str, list[float]]:
    """Train for 50 updates; return the losses of each, as tests/fixtures/loss_curve.json has them."""
    corpus = prepare_path("table", speech / "fsdd_strings" / "manifest.tsv", folder / "fsdd")
    labels = loudness_labels(corpus, folder / "labels")
    keys = [f"data.corpus={corpus.root}", "fit.steps=50", "fit.log_every=1"]
    keys += [f"targets.offline.labels={labels.folder}"]
    open_pretraining(load(PretrainConfig, "mt4ssl_tiny", keys)).run(folder / "run")
    lines = (folder / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    log = [row for row in map(json.loads, lines) if "lr" in row]
    return {loss: [row[loss] for row in log] for loss in ("offline", "online")}


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_loss_curve_is_the_kept_one(speech: Path, tmp_path: Path) -> None:
    kept = json.loads((DATA / "loss_curve.json").read_text(encoding="utf-8"))
    made = losses(speech, tmp_path)
    assert len(made["online"]) == 50
    for loss, values in made.items():
        # one thread and two, and AVX2 and AVX-512, differ by 2e-6 of a loss
        assert values == pytest.approx(kept[loss], rel=1e-3)
