"""Resampling from odd rates: torchaudio's result, in memory that only the audio decides."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from mt4ssl_bench.data import audio, audio_headers
from mt4ssl_bench.data.resampling import TABLE, resample, table_size
from mt4ssl_bench.errors import CorpusError

NOISE = (0.1 * np.random.default_rng(0).standard_normal(48_003)).astype(np.float32)
COMMON = (
    8_000, 11_025, 12_000, 22_050, 24_000, 32_000, 37_800, 44_100, 48_000, 64_000, 88_200, 96_000,
    176_400, 192_000, 384_000,
)  # fmt: skip


@pytest.mark.parametrize("rate", COMMON)
def test_common_rates_give_the_samples_that_torchaudio_gives(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", NOISE, rate, subtype="FLOAT")
    expected = torchaudio.transforms.Resample(rate, audio.RATE)(torch.from_numpy(NOISE))
    assert np.array_equal(audio.read_file(tmp_path / "a.wav"), expected.numpy())
    assert table_size(rate, audio.RATE) <= TABLE


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 48_000])
def test_the_weights_are_torchaudios(rate: int) -> None:
    expected = torchaudio.transforms.Resample(rate, audio.RATE)(torch.from_numpy(NOISE)).numpy()
    samples = resample(NOISE, rate, audio.RATE)
    assert samples.shape == expected.shape
    assert np.abs(samples - expected).max() < 2e-5  # torchaudio computes its times in fp32


@pytest.mark.parametrize("rate", [1_001, 11_127, 15_999, 16_001, 22_254, 44_101, 999_983])
def test_a_tone_at_an_odd_rate_stays_that_tone_in_little_memory(tmp_path: Path, rate: int) -> None:
    hertz = 200.0
    times = np.arange(2 * rate + 3) / rate
    tone = (0.5 * np.sin(2 * np.pi * hertz * times)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", tone, rate, subtype="FLOAT")
    tracemalloc.start()
    samples = audio.read_file(tmp_path / "a.wav")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(samples) == -(-len(tone) * audio.RATE // rate)
    expected = 0.5 * np.sin(2 * np.pi * hertz * np.arange(len(samples)) / audio.RATE)
    edge = audio.RATE // 20
    assert np.abs(samples - expected)[edge:-edge].max() < 2e-3
    assert peak < 150e6
    assert peak < 100e6 + 8 * tone.nbytes


@pytest.mark.parametrize("rate", [1, 999, 1_000_001, 2_000_000_000])
def test_a_rate_that_no_recording_has_is_refused(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", NOISE[:100], audio.RATE)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[24:28] = rate.to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(content)
    for look in (audio_headers.probe, audio.read_file):
        with pytest.raises(CorpusError, match=rf"states {rate:,} Hz; expected 1,000 to 1,000,000"):
            look(tmp_path / "a.wav")
