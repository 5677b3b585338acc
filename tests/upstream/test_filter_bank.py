"""The filter bank as a front end, and stacked frames: their geometry, and a run from end to end."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchaudio

from builders import read_log, toy_config, toy_model, waves
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.frame_grid import frame_count
from mt4ssl_bench.data.label_store import write_labels
from mt4ssl_bench.data.labels import LabelInfo
from mt4ssl_bench.encoders.finetuning import TuneConfig
from mt4ssl_bench.encoders.kind import trainable
from mt4ssl_bench.encoders.load import load_upstream
from mt4ssl_bench.errors import CheckpointError, ConfigError, UpstreamError
from mt4ssl_bench.upstream.batches import DataConfig, PretrainData
from mt4ssl_bench.upstream.checkpoints.encoder_adapter import MT4SSLUpstream
from mt4ssl_bench.upstream.checkpoints.export import to_huggingface
from mt4ssl_bench.upstream.expert import UpstreamExpert
from mt4ssl_bench.upstream.frontend import FilterBank, mel_filters
from mt4ssl_bench.upstream.pretrain import open_pretraining
from mt4ssl_bench.upstream.recipe import load_config, to_stored

MELS = 20
BANK = f"frontend.mels={MELS}"


def test_the_filters_are_torchaudios() -> None:
    expected = torchaudio.functional.melscale_fbanks(257, 20.0, 8_000.0, 40, 16_000)
    # torchaudio's constant of HTK's scale, 2595 log10, differs from 1127 ln in the fifth digit
    torch.testing.assert_close(mel_filters(40), expected / expected.sum(0), atol=1e-3, rtol=0)


def test_energies_are_those_of_a_plain_loop_over_windows() -> None:
    x, _ = waves(2_000)
    found = FilterBank(MELS)(x)
    assert found.shape == (1, 6, 2 * MELS)
    window = np.hanning(240)
    for t in range(6):
        for half in range(2):
            start = 320 * t + 160 * half
            spectrum = np.fft.rfft(x[0, start : start + 240].numpy() * window, 512)
            power = np.abs(spectrum) ** 2 / (window**2).sum()
            energies = np.log(power @ mel_filters(MELS).numpy() + 1e-6)
            place = slice(MELS * half, MELS * (half + 1))
            np.testing.assert_allclose(found[0, t, place], energies, atol=1e-4)


@pytest.mark.parametrize("stack", [1, 2])
@pytest.mark.parametrize("samples", [1_040, 1_359, 1_360, 8_123])
def test_a_frame_sees_its_receptive_field_only(samples: int, stack: int) -> None:
    frontend, config = (made := toy_model(BANK, f"frontend.stack={stack}")).frontend, made.config
    grid = config.frontend
    x = torch.randn(1, samples)
    whole = frontend.features(x, None)
    assert whole.shape == (1, frame_count(samples) // stack, 2 * MELS * stack)
    assert grid.frame_count(samples) == whole.shape[1]
    assert frontend.bank is not None
    for t in range(whole.shape[1]):
        first, end = t * grid.stride, t * grid.stride + grid.receptive_field
        assert end <= samples
        changed = torch.randn(1, samples)
        changed[:, first:end] = x[:, first:end]
        energies = (frontend.bank(each)[:, t * stack : (t + 1) * stack] for each in (x, changed))
        torch.testing.assert_close(*energies, atol=1e-5, rtol=0)


@pytest.mark.parametrize("stack", [1, 2])
def test_batching_does_not_change_an_utterance(stack: int) -> None:
    model = MT4SSLUpstream(toy_model(BANK, f"frontend.stack={stack}"), "toy", "cpu")
    assert model.stride == 320 * stack
    x, lengths = waves(16_000, 9_700)
    together, alone = model.extract(x, lengths), model.extract(x[1:, :9_700], lengths[1:])
    assert together.lengths.tolist() == [49 // stack, 30 // stack]
    frames = 30 // stack
    torch.testing.assert_close(together.layers[:, 1:, :frames], alone.layers, atol=1e-5, rtol=0)


def test_empty_bands_of_narrow_band_audio_stay_near_zero() -> None:
    spectrum = torch.fft.rfft(torch.randn(1, 16_000))
    spectrum[:, 4_000:] = 0  # Hz
    x = torch.fft.irfft(spectrum)
    pcm = (x / x.abs().max() * 2**13).round() / 2**13  # 14 bits
    features = toy_model(BANK).frontend.features(pcm / pcm.std(), None).view(-1, 2, MELS)
    assert features[..., -2:].abs().max() < 0.2  # above 6 kHz
    assert features[..., 2:10].std() > 0.5


def test_too_many_filters_are_an_error() -> None:
    assert torch.isfinite(mel_filters(80)).all()
    with pytest.raises(ConfigError, match=r"frontend\.mels=81"):
        load_config("mt4ssl_tiny", ["frontend.mels=81"])


def test_a_stack_gets_the_label_of_its_first_frame(corpus: Corpus, tmp_path: Path) -> None:
    counts = {cut.id: frame_count(round(cut.duration * audio.RATE)) for cut in corpus.cuts("train")}
    info = LabelInfo(digest=corpus.info.digest, clusters=1000)
    numbers = [(name, np.arange(count)) for name, count in counts.items()]
    labels = write_labels(tmp_path / "labels", info, numbers)
    config = DataConfig(batch_seconds=6, max_seconds=1.0, min_seconds=0.5, workers=0)
    plain, stacked = (
        PretrainData([corpus], "train", config, labels, normalized=True, stack=stack)
        for stack in (1, 2)
    )
    for one, two in zip(plain(0), stacked(0), strict=True):
        assert one.labels is not None
        assert two.labels is not None
        assert one.waveforms.equal(two.waveforms)
        for length, every, first in zip(one.lengths, one.labels, two.labels, strict=True):
            count = frame_count(int(length)) // 2
            assert first[:count].tolist() == every[: 2 * count : 2].tolist()


def test_a_run_trains_and_serves_everywhere(corpus: Corpus, tmp_path: Path) -> None:
    keys = (BANK, "frontend.stack=2", "masking.length=5", f"data.corpus={corpus.root}")
    run = tmp_path / "run"
    assert open_pretraining(toy_config(*keys)).run(run).finished
    assert read_log(run)[-1]["step"] == 6
    upstream = load_upstream(str(run))
    assert upstream.stride == 640
    expert = UpstreamExpert(run).eval()
    assert expert.get_downsample_rates() == 640
    x, lengths = waves(8_000, 5_000)
    frozen = upstream.extract(x, lengths)
    hidden = expert([x[0], x[1, :5_000]])["hidden_states"]
    assert frozen.lengths.tolist() == [12, 7]
    torch.testing.assert_close(hidden[-1][1, :7], frozen.layers[-1][1, :7], atol=1e-5, rtol=0)
    tuned = trainable(upstream, TuneConfig()).train()
    features = tuned(x, lengths, np.random.default_rng(0))
    assert features.lengths.tolist() == [12, 7]
    features.layers.square().mean().backward()
    assert next(tuned.parameters()).grad is not None
    with pytest.raises(UpstreamError, match=r"719 samples; at least 720 \(45 ms"):
        upstream.extract(*waves(719))
    with pytest.raises(CheckpointError, match="filter bank"):
        to_huggingface(run, tmp_path / "hf")


def test_other_filters_are_another_model_and_old_runs_keep_their_keys() -> None:
    prints = {
        MT4SSLUpstream(toy_model(*keys), "toy", "cpu").fingerprint
        for keys in ((), (BANK,), ("frontend.mels=10", "frontend.stack=2"))
    }
    assert len(prints) == 3
    assert to_stored(toy_config())["frontend"] == {"channels": 16, "normalize": True}
    stored = to_stored(toy_config(BANK))["frontend"]
    assert stored == {"channels": 16, "normalize": True, "mels": MELS}


def test_training_warps_frequencies_and_evaluation_does_not() -> None:
    plain = toy_model(BANK).frontend
    frontend = toy_model(BANK, "frontend.warp=0.2").frontend
    torch.manual_seed(0)
    x = torch.randn(30, 2_000)
    assert frontend.eval().features(x, None).equal(plain.features(x, None))
    found = frontend.train().features(x, None)
    assert plain.train().features(x, None).equal(plain.eval().features(x, None))
    filters = [mel_filters(MELS, factor) for factor in torch.linspace(0.8, 1.2, 9).tolist()]
    drawn = set()
    for one, wave in zip(found, x, strict=True):
        assert plain.bank is not None
        candidates = []
        for each in filters:
            plain.bank.filters = each[None]
            candidates.append(plain.features(wave[None], None)[0])
        [number] = [i for i, each in enumerate(candidates) if torch.allclose(each, one, atol=1e-5)]
        drawn.add(number)
    assert len(drawn) >= 6


@pytest.mark.parametrize("factor", [0.7, 0.9, 1.0, 1.2, 1.3])
def test_a_warp_scales_low_frequencies_and_keeps_the_highest(factor: float) -> None:
    bins = torch.arange(257) * 16_000 / 512
    means = bins @ mel_filters(80, factor)
    assert means.isfinite().all()
    expected = bins @ mel_filters(80)
    low = (expected > 300) & (expected < 2_000)
    torch.testing.assert_close(means[low] * factor, expected[low], rtol=0.05, atol=0)
    assert means[-1] == pytest.approx(float(expected[-1]), rel=0.05)
    assert (means.diff() >= 0).all()  # the lowest of 80 filters see one bin each


def test_a_warp_is_no_part_of_the_model() -> None:
    prints = {
        MT4SSLUpstream(toy_model(BANK, warp), "toy", "cpu").fingerprint
        for warp in ("frontend.warp=0", "frontend.warp=0.1")
    }
    assert len(prints) == 1
    warped = MT4SSLUpstream(toy_model(BANK, "frontend.warp=0.1"), "toy", "cpu")
    x, lengths = waves(8_000)
    tuned = trainable(
        warped, TuneConfig(dropout=0, attention_dropout=0, activation_dropout=0, layer_drop=0)
    ).train()
    torch.testing.assert_close(tuned(x, lengths).layers, warped.extract(x, lengths).layers)
    with pytest.raises(ConfigError, match=r"frontend\.warp=0\.5"):
        load_config("mt4ssl_tiny", ["frontend.warp=0.5"])
