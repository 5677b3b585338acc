"""Mixtures by LibriMix's rule: pairs, loudness, lengths, turns, and what cannot be mixed."""

import logging
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from builders import RATE
from mt4ssl_bench.corpora.mixing import at_loudness, draw_pairs, loudness, mix
from mt4ssl_bench.corpora.prepare_source import Request, prepare_source
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.sources.mixtures import SOURCE, Mixtures
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import Cut, Turn, others_of, turns_of
from mt4ssl_bench.errors import ConfigError, CorpusError

PARTS = {"train-clean-100": range(1, 6), "dev-clean": range(6, 8), "test-clean": range(8, 10)}


def librispeech(root: Path, parts: dict[str, range] = PARTS, each: int = 2) -> Path:
    """Write LibriSpeech's layout: noise of 3 to 4 s, one utterance of a speaker too short."""
    rng = np.random.default_rng(0)
    for part, speakers in parts.items():
        for speaker in speakers:
            folder = root / "LibriSpeech" / part / str(speaker) / "1"
            folder.mkdir(parents=True)
            names = [f"{speaker}-1-{number:04d}" for number in range(each + 1)]
            for number, name in enumerate(names):
                seconds = 2.0 if number == each else 3.0 + 0.2 * number + 0.1 * speaker
                samples = 0.02 * speaker * rng.standard_normal(int(RATE * seconds))
                soundfile.write(folder / f"{name}.flac", samples.clip(-1, 1), RATE)
            text = "".join(f"{name} WORDS\n" for name in names)
            (folder / f"{speaker}-1.trans.txt").write_text(text)
    return root


def rttm(root: Path) -> Path:
    """Write segments of every utterance: from 0.5 s on, and from 3.1 s on."""
    file = root / "segments.rttm"
    names = sorted(path.stem for path in root.rglob("*.flac"))
    file.write_text(
        "".join(
            f"SPEAKER {name} 1 {start} {lasts} <NA> <NA> {name.partition('-')[0]} <NA> <NA>\n"
            for name in names
            for start, lasts in (("0.500", "2.000"), ("3.100", "0.700"))
        )
    )
    return file


def prepared(root: Path, out: Path, **options: object) -> Corpus:
    made = Mixtures(**options)  # type: ignore[arg-type]
    return prepare_source(SOURCE, made, out, Request(roots={"": root})).corpus


def cuts(corpus: Corpus) -> dict[str, list[Cut]]:
    return {split: list(corpus.cuts(split)) for split in corpus.info.splits}


def test_a_round_uses_each_utterance_once_and_never_one_speaker_twice() -> None:
    rows = [Row(id=f"{s}-{n}", path=Path(), speaker=str(s)) for s in range(5) for n in range(4)]
    once = list(draw_pairs(rows, 0, random.Random(0)))  # noqa: S311
    assert max(Counter(row.id for pair in once for row in pair).values()) == 1
    many = list(draw_pairs(rows, 120, random.Random(0)))  # noqa: S311
    assert many[: len(once)] == once
    assert len({frozenset(row.id for row in pair) for pair in many}) == 120
    assert all(one.speaker != two.speaker for one, two in many)
    every = list(draw_pairs(rows, 10_000, random.Random(0)))  # noqa: S311
    assert 150 < len(every) <= 160  # 20 * 16 / 2: it ends where new pairs are hardly found


@pytest.mark.speech
def test_loudness_is_that_of_pyloudnorm(speech: Path) -> None:
    oracle = pytest.importorskip("pyloudnorm", reason="dev extra")
    meter = oracle.Meter(RATE)
    files = sorted((speech / "librispeech_mini").rglob("*.flac"))[:10]
    assert files
    for file in files:
        samples = audio.read_file(file)
        expected = meter.integrated_loudness(samples.astype(np.float64))
        assert loudness(samples) == pytest.approx(expected, abs=1e-3)
        assert loudness(at_loudness(samples, -30.0)) == pytest.approx(-30.0, abs=1e-3)


def test_what_would_clip_is_made_quieter() -> None:
    spike = 1e-3 * np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    spike[100] = 0.5
    assert np.abs(at_loudness(spike, -25.0)).max() == pytest.approx(0.9)
    loud = np.full(4, 0.8, dtype=np.float32), np.array([0.4, -0.2], dtype=np.float32)
    mixture, one, two = mix(loud, "max")
    assert np.abs(mixture).max() == pytest.approx(0.9)
    np.testing.assert_allclose(mixture, one + two)
    np.testing.assert_allclose(two, np.array([0.3, -0.15, 0, 0]), rtol=1e-6)
    assert [len(part) for part in mix(loud, "min")] == [2, 2, 2]


@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_mixture_is_the_sum_of_its_sources_with_the_turns_of_both(
    tmp_path: Path, mode: str
) -> None:
    root = librispeech(tmp_path / "in")
    corpus = prepared(root, tmp_path / "out", rttm=rttm(root), mode=mode, test_mixtures=3)
    splits = cuts(corpus)
    assert {split: len(own) for split, own in splits.items()} == {"train": 5, "valid": 3, "test": 3}
    speakers: dict[str, set[str]] = {}
    for split, own in splits.items():
        for cut in own:
            one, two = cut.id.split("_")
            mixture = audio.read(cut)
            sources = [audio.read(cut, name) for name in ("s1", "s2")]
            assert list(others_of(cut)) == ["s1", "s2"]
            assert {len(source) for source in sources} == {len(mixture)}
            np.testing.assert_allclose(mixture, sum(sources), atol=1e-4)  # 16 bits each
            seconds = [_seconds(root, name) for name in (one, two)]
            expected = max(seconds) if mode == "max" else min(seconds)
            assert cut.duration == pytest.approx(expected, abs=1 / RATE)
            assert turns_of(cut, "speakers") == tuple(
                sorted(
                    Turn(start, min(end, expected), name.partition("-")[0])
                    for name in (one, two)
                    for start, end in ((0.5, 2.5), (3.1, 3.8))
                    if start < expected
                )
            )
            speakers.setdefault(split, set()).update(n.partition("-")[0] for n in (one, two))
    assert not speakers["train"] & (speakers["valid"] | speakers["test"])
    again = prepared(root, tmp_path / "again", rttm=rttm(root), mode=mode, test_mixtures=3)
    assert again.info.digest == corpus.info.digest
    other = prepared(root, tmp_path / "seed", rttm=rttm(root), mode=mode, test_mixtures=3, seed=1)
    assert other.info.digest != corpus.info.digest


def test_utterances_of_one_label_stay_two_speakers(tmp_path: Path) -> None:
    root = librispeech(tmp_path / "in")
    file = rttm(root)
    expected = prepared(root, tmp_path / "out", rttm=file, test_mixtures=3)
    lines = [line.split() for line in file.read_text().splitlines()]
    file.write_text("".join(" ".join([*cells[:7], "SPEECH", *cells[8:]]) + "\n" for cells in lines))
    corpus = prepared(root, tmp_path / "vad", rttm=file, test_mixtures=3)
    for cut in cuts(corpus)["test"]:
        speakers = {name.partition("-")[0] for name in cut.id.split("_")}
        assert {turn.label for turn in turns_of(cut, "speakers")} == speakers
    assert corpus.info.digest == expected.info.digest


def _seconds(root: Path, name: str) -> float:
    (file,) = root.rglob(f"{name}.flac")
    return soundfile.info(file).frames / RATE


def files(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_another_corpus_in_the_same_folder_is_refused_and_its_audio_stays(tmp_path: Path) -> None:
    root, out = librispeech(tmp_path / "in"), tmp_path / "out"
    corpus = prepared(root, out, test_mixtures=2)
    before = files(out)
    for options in ({"mode": "min"}, {"seed": 1}, {"train_mixtures": 3}):
        with pytest.raises(CorpusError, match="holds another corpus"):
            prepared(root, out, test_mixtures=2, **options)
    assert prepared(root, out, test_mixtures=2).info.digest == corpus.info.digest
    assert files(out) == before


def test_an_interrupted_prepare_continues_with_the_audio_that_is_there(tmp_path: Path) -> None:
    root, out = librispeech(tmp_path / "in"), tmp_path / "out"
    digest = prepared(root, out, mode="min", test_mixtures=2).info.digest
    (out / "corpus.json").unlink()
    kept, damaged, gone, *_ = sorted((out / "audio").rglob("*.flac"))
    written = kept.stat().st_mtime_ns
    damaged.write_bytes(damaged.read_bytes()[:100])
    gone.unlink()
    assert prepared(root, out, mode="min", test_mixtures=2).info.digest == digest
    assert kept.stat().st_mtime_ns == written


def test_short_utterances_and_those_without_segments_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = librispeech(tmp_path / "in")
    file = rttm(root)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if " 1-1-0000 " not in line))
    with caplog.at_level(logging.INFO):
        corpus = prepared(root, tmp_path / "out", rttm=file)
    assert "leaving out 10 of 27 utterances: 9 shorter than 3 s, 1 not in the RTTM" in caplog.text
    assert not any("1-1-0000" in cut.id for cut in cuts(corpus)["train"])


def test_silent_and_very_quiet_utterances_are_left_out_before_pairs_are_drawn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root, fewer = librispeech(tmp_path / "in"), librispeech(tmp_path / "fewer")
    for name, level in (("1-1-0000", 0.0), ("4-1-0001", 1e-5)):
        (file,) = root.rglob(f"{name}.flac")
        samples = level * np.random.default_rng(0).standard_normal(4 * RATE)
        soundfile.write(file, samples, RATE, subtype="PCM_24")
        (short,) = fewer.rglob(f"{name}.flac")
        soundfile.write(short, np.zeros(RATE), RATE)
    (damaged,) = root.rglob("5-1-0001.flac")
    damaged.write_bytes(damaged.read_bytes()[:3000])  # its header is whole
    (short,) = fewer.rglob("5-1-0001.flac")
    soundfile.write(short, np.zeros(RATE), RATE)
    with caplog.at_level(logging.INFO):
        corpus = prepared(root, tmp_path / "out")
    assert "leaving out 12 of 27 utterances: 9 shorter than 3 s, 0 not in" in caplog.text
    assert "file, 3 unreadable, silent or too quiet to have a loudness" in caplog.text
    without = prepared(fewer, tmp_path / "without")
    assert corpus.info.digest == without.info.digest, "the same pairs at the same loudness"
    with pytest.raises(CorpusError, match=r"a source without loudness \(-inf LUFS\)"):
        at_loudness(np.zeros(RATE, dtype=np.float32), -30.0)


def test_speakers_of_train_are_valid_where_there_is_no_part_for_it(tmp_path: Path) -> None:
    parts = {"train-clean-100": range(1, 11), "test-clean": range(11, 13)}
    corpus = prepared(librispeech(tmp_path / "in", parts), tmp_path / "out", test_mixtures=2)
    splits = cuts(corpus)
    names = {
        split: {part.partition("-")[0] for cut in own for part in cut.id.split("_")}
        for split, own in splits.items()
    }
    assert len(names["valid"]) == 2
    assert not names["valid"] & names["train"]
    assert "turns:speakers" not in corpus.info.fields


def test_what_cannot_be_mixed_is_said(tmp_path: Path) -> None:
    parts = {"train-clean-100": range(1, 6), "dev-clean": range(6, 8), "test-clean": range(1, 3)}
    shared = librispeech(tmp_path / "shared", parts)
    with pytest.raises(CorpusError, match="split 'train' has 5 speakers, of whom [12] is in anoth"):
        prepared(shared, tmp_path / "out")
    parts = {"train-clean-100": range(1, 6), "dev-clean": range(6, 8), "test-clean": range(9, 10)}
    one = librispeech(tmp_path / "one", parts)
    with pytest.raises(CorpusError, match="split 'test' has 1 speakers; expected two or more"):
        prepared(one, tmp_path / "out")
    with pytest.raises(ConfigError, match="expected at least 0 and 1"):
        Mixtures(test_mixtures=0)
