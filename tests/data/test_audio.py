"""Audio comes out as 16 kHz mono float32.

What cannot be read raises CorpusError naming the file and the utterance.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import Recording

from mt4ssl_bench.data import audio, audio_headers
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.signal import examine
from mt4ssl_bench.errors import CorpusError


def tone(seconds: float, rate: int, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(
        np.float32
    )


def write(
    path: Path, samples: np.ndarray, rate: int = audio.RATE, subtype: str | None = None
) -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def test_a_stereo_file_at_44_1_khz_becomes_mono_at_16_khz_of_the_same_duration(
    tmp_path: Path,
) -> None:
    stereo = np.stack([tone(1.5, 44_100), np.zeros(66_150, np.float32)], axis=1)
    samples = audio.read_file(write(tmp_path / "s.wav", stereo, 44_100, "FLOAT"))
    assert samples.shape == (24_000,)
    assert samples.dtype == np.float32
    # the mean of both channels is the tone at half its height; the edges ring
    expected = 0.5 * tone(1.5, audio.RATE)
    assert np.abs(samples - expected)[200:-200].max() < 2e-3


def test_channels_are_averaged(tmp_path: Path) -> None:
    stereo = np.array([[0.5, 0.25], [-0.5, 0.0], [0.0, 1.0]], np.float32)
    assert audio.read_file(write(tmp_path / "s.wav", stereo, subtype="FLOAT")).tolist() == [
        0.375,
        -0.25,
        0.5,
    ]


def test_16_khz_mono_is_read_as_it_is(tmp_path: Path) -> None:
    samples = np.array([0.0, 0.5, -0.25, 1.0], np.float32)
    assert (
        audio.read_file(write(tmp_path / "m.wav", samples, subtype="FLOAT")).tolist()
        == samples.tolist()
    )


@pytest.mark.parametrize("suffix", ["flac", "wav", "ogg"])
def test_a_segment_is_the_slice_of_the_whole(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"m.{suffix}", tone(1, audio.RATE))
    whole = audio.read_file(path)
    assert whole.shape == (16_000,)
    assert np.array_equal(audio.read_file(path, start=4_000, count=1_000), whole[4_000:5_000])
    assert np.array_equal(audio.read_file(path, start=15_000), whole[15_000:])


def test_a_segment_is_counted_at_the_files_own_rate(tmp_path: Path) -> None:
    path = write(tmp_path / "m.wav", tone(1, 8_000), 8_000)
    assert audio.read_file(path, start=2_000, count=4_000).shape == (8_000,)


def test_a_cut_is_read_from_its_start_for_its_duration(tmp_path: Path) -> None:
    path = write(tmp_path / "m.wav", np.arange(48_000, dtype=np.float32) / 48_000, subtype="FLOAT")
    cut = Recording.from_file(path).to_cut().truncate(offset=1.0, duration=0.5)
    samples = audio.read(cut)
    assert samples.shape == (8_000,)
    assert samples[0] == np.float32(16_000 / 48_000)


def test_every_cut_of_a_corpus_is_as_long_as_it_says(corpus: Corpus) -> None:
    for cut in corpus.cuts("train"):
        assert len(audio.read(cut)) == cut.num_samples


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    samples = tone(0.1, audio.RATE)
    samples[700] = value
    path = write(tmp_path / "bad one.wav", samples, subtype="FLOAT")
    with pytest.raises(CorpusError, match=r"bad one\.wav: holds NaN or infinite samples$"):
        audio.read_file(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gone.flac"
    for reader in (audio.read_file, audio_headers.probe):
        with pytest.raises(CorpusError) as caught:
            reader(path)
        assert str(caught.value) == f"{path}: no such file"


@pytest.mark.parametrize("content", [b"", b"not audio at all", b"RIFF\x00\x00\x00\x00WAVE"])
def test_a_file_that_is_no_audio_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "garbage.wav"
    path.write_bytes(content)
    for reader in (audio.read_file, audio_headers.probe):
        with pytest.raises(CorpusError) as caught:
            reader(path)
        assert str(caught.value).startswith(f"{path}: unreadable audio (")


def test_a_folder_is_not_an_audio_file(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="unreadable audio"):
        audio.read_file(tmp_path)


def test_a_truncated_flac_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "half.flac", np.random.default_rng(0).uniform(-1, 1, 16_000))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CorpusError, match=r"half\.flac: unreadable audio"):
        audio.read_file(path)


@pytest.mark.parametrize("suffix", ["wav", "ogg"])
def test_a_file_truncated_after_it_was_prepared_is_named_and_not_read_short(
    tmp_path: Path, suffix: str
) -> None:
    path = write(tmp_path / f"half.{suffix}", np.random.default_rng(0).uniform(-1, 1, 16_000))
    cut = Recording.from_file(path).to_cut().with_id("u7")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(
        CorpusError, match=rf"^utterance 'u7': .*half\.{suffix}: truncated or changed"
    ):
        audio.read(cut)


def test_a_segment_beyond_the_end_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.wav", tone(1, audio.RATE))
    with pytest.raises(
        CorpusError, match=r"m\.wav: truncated or changed: 0 samples from 20000, not 10"
    ):
        audio.read_file(path, start=20_000, count=10)


def test_reading_a_cut_names_the_utterance_and_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "m.wav", tone(1, audio.RATE))
    cut = Recording.from_file(path).to_cut().with_id("u7")
    path.unlink()
    with pytest.raises(CorpusError) as caught:
        audio.read(cut)
    assert str(caught.value) == f"utterance 'u7': {path}: no such file"


def test_the_header_gives_samples_rate_and_channels(tmp_path: Path) -> None:
    path = write(tmp_path / "s.wav", np.zeros((441, 2)), 44_100)
    assert audio_headers.probe(path) == (441, 44_100, 2)


def test_a_file_without_samples_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "empty.wav", np.zeros(0))
    with pytest.raises(CorpusError, match=r"empty\.wav: holds no samples$"):
        audio_headers.probe(path)
    with pytest.raises(CorpusError, match=r"empty\.wav: "):
        audio.read_file(path)


@pytest.mark.speech
def test_real_speech_at_its_own_rate_is_read_at_16_khz(speech: Path) -> None:
    for path in sorted((speech / "fsdd_strings" / "audio").rglob("*.flac"))[:3]:
        frames, rate, _ = audio_headers.probe(path)
        samples = audio.read_file(path)
        assert abs(len(samples) / audio.RATE - frames / rate) < 1e-3
        assert 0.01 < np.abs(samples).max() <= 1.5


def test_a_name_in_no_encoding_is_named_as_the_fault(tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/stra\xdfe.wav"))
    soundfile.write(tmp_path / "a.wav", np.zeros(160), 16_000)
    (tmp_path / "a.wav").rename(odd)
    for look in (audio_headers.probe, audio.read_file, examine):
        with pytest.raises(
            CorpusError, match="its name is not in the system's encoding; rename it"
        ):
            look(odd)
