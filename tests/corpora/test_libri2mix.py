"""Libri2Mix: LibriMix's folders in both modes, s3prl's Kaldi folders, and wrong layouts."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from builders import RATE
from mt4ssl_bench.corpora.prepare_source import Request, prepare_source
from mt4ssl_bench.corpora.sources.libri2mix import SOURCE, Libri2Mix
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import Cut, Turn, others_of, turns_of
from mt4ssl_bench.errors import ConfigError, CorpusError

SECONDS = {"max": 2.0, "min": 1.5}
HEADER = "mixture_ID,mixture_path,source_1_path,source_2_path,noise_path,length"


def librimix(root: Path, each: int = 3) -> Path:
    """Write the layout of LibriMix's scripts, whose metadata holds the paths of another machine."""
    for mode, seconds in SECONDS.items():
        folder = root / "Libri2Mix" / "wav16k" / mode
        (folder / "metadata").mkdir(parents=True)
        for number, part in enumerate(("train-100", "dev", "test")):
            names = [f"{number}1-1-{n:04}_{number}2-1-{n:04}" for n in range(each)]
            for kind in ("mix_both", "mix_clean", "s1", "s2"):
                (folder / part / kind).mkdir(parents=True)
                for name in names:
                    rng = np.random.default_rng(list(f"{name}{kind}".encode()))
                    samples = 0.1 * rng.standard_normal(round(seconds * RATE))
                    soundfile.write(folder / part / kind / f"{name}.wav", samples, RATE)
            for kind in ("mix_both", "mix_clean"):
                paths = "/elsewhere/m.wav,/elsewhere/a.wav,/elsewhere/b.wav,/elsewhere/n.wav"
                lines = [f"{name},{paths},{seconds * RATE}" for name in names]
                file = folder / "metadata" / f"mixture_{part}_{kind}.csv"
                file.write_text("\n".join([HEADER, *lines]) + "\n")
    return root


def rttm(folder: Path, each: int = 3) -> Path:
    """Write the segments of all utterances; the second speakers of test speak beyond the end of
    the mixtures, as do both of its last one.
    """
    folder.mkdir()
    for part in range(3):
        lines = [
            f"SPEAKER {part}{s}-1-{n:04} 1 {start} 1.6 <NA> <NA> {part}{s} <NA> <NA>\n"
            for s in (1, 2)
            for n in range(each)
            for start in [9 if part == 2 and (s == 2 or n == each - 1) else 0.2 * s]
        ]
        (folder / f"part{part}.rttm").write_text("".join(lines))
    return folder


def prepared(root: Path, out: Path, *, partial: bool = False, **options: object) -> Corpus:
    made = Libri2Mix(**options)  # type: ignore[arg-type]
    return prepare_source(SOURCE, made, out, Request(roots={"": root}, partial=partial)).corpus


def cuts(corpus: Corpus, split: str) -> dict[str, Cut]:
    return {cut.id: cut for cut in corpus.cuts(split)}


@pytest.mark.parametrize(("mode", "end"), [("max", 1.8), ("min", 1.5)])
def test_mixtures_have_their_sources_and_the_turns_of_their_utterances(
    tmp_path: Path, mode: str, end: float
) -> None:
    root, segments = librimix(tmp_path / "in"), rttm(tmp_path / "rttm")
    kind = "mix_both" if mode == "max" else "mix_clean"
    corpus = prepared(root, tmp_path / "out", mode=mode, mixture=kind, rttm=segments)
    assert corpus.info.fields == ["other:s1", "other:s2", "turns:speakers"]
    assert [info.utterances for info in corpus.info.splits.values()] == [3, 3, 3]
    cut = cuts(corpus, "train")["01-1-0000_02-1-0000"]
    assert str(cut.recording.sources[0].source).endswith(
        f"Libri2Mix/wav16k/{mode}/train-100/{kind}/{cut.id}.wav"
    )
    assert [path.parent.name for path in others_of(cut).values()] == ["s1", "s2"]
    two = Turn(0.4, min(2.0, SECONDS[mode]), "02")
    assert turns_of(cut, "speakers") == (Turn(0.2, end, "01"), two)
    one, *_, silent = cuts(corpus, "test").values()
    assert [turn.label for turn in turns_of(one, "speakers")] == ["21"]
    assert not turns_of(silent, "speakers")


def test_an_utterance_that_the_rttm_lacks_is_a_gap_and_no_silence(tmp_path: Path) -> None:
    root, segments = librimix(tmp_path / "in"), rttm(tmp_path / "rttm")
    file = segments / "part0.rttm"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))  # cut short
    with pytest.raises(
        CorpusError,
        match=r"'01-1-0002_02-1-0002' has no turns:speakers \(not in RTTM: 02-1-0002; 1",
    ):
        prepared(root, tmp_path / "out", rttm=segments)
    (segments / "part1.rttm").rename(segments / "._part1.rttm")  # hidden files are not read
    corpus = prepared(root, tmp_path / "out", rttm=segments, partial=True)
    assert corpus.info.notes["no_turns:speakers"] == 1 + 3
    sizes = {name: split.utterances for name, split in corpus.info.splits.items()}
    assert (sizes["test"], "turns:speakers" in corpus.info.fields) == (3, True)
    assert sum(sizes.values()) == 5
    assert all(len(turns_of(cut, "speakers")) == 2 for cut in corpus.cuts("train"))


def test_an_utterance_is_of_one_speaker_whatever_the_rttm_calls_him(tmp_path: Path) -> None:
    root, segments = librimix(tmp_path / "in"), rttm(tmp_path / "rttm")
    expected = prepared(root, tmp_path / "out", rttm=segments)
    for file in segments.iterdir():
        lines = [line.split() for line in file.read_text().splitlines()]
        lines = [[*cells[:7], "SPEECH", *cells[8:]] for cells in lines]
        file.write_text("".join(" ".join(cells) + "\n" for cells in lines))
    corpus = prepared(root, tmp_path / "vad", rttm=segments)
    assert corpus.info.digest == expected.info.digest
    labels = [turn.label for cut in corpus.cuts("train") for turn in turns_of(cut, "speakers")]
    assert labels == ["01", "02"] * 3


def test_an_rttm_by_mixture_names_two_speakers(tmp_path: Path) -> None:
    root, file = librimix(tmp_path / "in"), tmp_path / "mixtures.rttm"
    names = [f"{part}1-1-{n:04}_{part}2-1-{n:04}" for part in range(3) for n in range(3)]

    def turns(*labels: str) -> str:
        start = "SPEAKER {} 1 {} 1 <NA> <NA> {} <NA> <NA>\n"
        return "".join(start.format(name, 0.1, label) for name in names for label in labels)

    file.write_text(turns("a", "b"))
    corpus = prepared(root, tmp_path / "out", rttm=file)
    (cut, *_) = corpus.cuts("test")
    assert [turn.label for turn in turns_of(cut, "speakers")] == ["a", "b"]
    file.write_text(turns("SPEECH"))
    with pytest.raises(
        CorpusError, match=r"'01-1-0000_02-1-0000': RTTM with turns of SPEECH only; expected 2 spea"
    ):
        prepared(root, tmp_path / "vad", rttm=file)


def test_mix_single_has_only_its_first_speaker(tmp_path: Path) -> None:
    root, segments = librimix(tmp_path / "in"), rttm(tmp_path / "rttm")
    for folder in (root / "Libri2Mix" / "wav16k" / "max").iterdir():
        if folder.name == "metadata":
            for file in folder.glob("*_mix_both.csv"):
                shutil.copy(file, file.with_name(file.name.replace("both", "single")))
        else:
            shutil.copytree(folder / "mix_both", folder / "mix_single")
    corpus = prepared(root, tmp_path / "out", mixture="mix_single", rttm=segments)
    found = {turn.label for cut in corpus.cuts("train") for turn in turns_of(cut, "speakers")}
    assert found == {"01"}


def test_dev_is_drawn_as_s3prl_does_for_separation(tmp_path: Path) -> None:
    corpus = prepared(librimix(tmp_path / "in", each=8), tmp_path / "out", dev=3)
    names = [f"11-1-{n:04}_12-1-{n:04}" for n in range(8)]
    random.seed(7)
    random.shuffle(names)
    assert sorted(cuts(corpus, "valid")) == sorted(names[:3])
    assert corpus.info.splits["test"].utterances == 8
    assert "turns:speakers" not in corpus.info.fields


def test_kaldi_folders_of_s3prls_diarization_are_read(tmp_path: Path) -> None:
    for split in ("train", "dev", "test"):
        folder = tmp_path / "data" / split
        folder.mkdir(parents=True)
        soundfile.write(folder / "m.wav", 0.1 * np.ones(2 * RATE), RATE)
        (folder / "wav.scp").write_text(f"{split}-m {folder / 'm.wav'}\n")
        (folder / "reco2dur").write_text(f"{split}-m 2.0\n")
        lines = [f"SPEAKER {split}-m 1 {s} 1.5 <NA> <NA> s{s} <NA> <NA>\n" for s in (0, 1)]
        (folder / "rttm").write_text("".join(lines))
    corpus = prepared(tmp_path / "data", tmp_path / "out")
    (cut,) = corpus.cuts("valid")
    assert cut.id == "dev-m"
    assert turns_of(cut, "speakers") == (Turn(0.0, 1.5, "s0"), Turn(1.0, 2.0, "s1"))


def test_kaldi_folders_of_other_mixtures_than_were_asked_for_are_refused(tmp_path: Path) -> None:
    for split in ("train", "dev", "test"):
        folder = tmp_path / "data" / split
        folder.mkdir(parents=True)
        file = tmp_path / "Libri2Mix" / "wav16k" / "min" / split / "mix_clean" / "m.wav"
        file.parent.mkdir(parents=True)
        soundfile.write(file, 0.1 * np.ones(2 * RATE), RATE)
        (folder / "wav.scp").write_text(f"{split}-m {file}\n")
        turn = f"SPEAKER {split}-m 1 0 1.5 <NA> <NA> "
        (folder / "rttm").write_text("".join(f"{turn}{who} <NA> <NA>\n" for who in "st"))
    with pytest.raises(CorpusError, match="is of min mix_clean; expected max mix_both, or --mode"):
        prepared(tmp_path / "data", tmp_path / "out")
    corpus = prepared(tmp_path / "data", tmp_path / "out", mode="min", mixture="mix_clean")
    assert corpus.info.notes["mixtures"] == "min mix_clean train-100, dev all"


def test_a_recording_that_a_kaldi_folders_rttm_lacks_is_a_gap(tmp_path: Path) -> None:
    for split in ("train", "dev", "test"):
        folder = tmp_path / "data" / split
        folder.mkdir(parents=True)
        for name in ("m", "n"):
            soundfile.write(folder / f"{name}.wav", 0.1 * np.ones(2 * RATE), RATE)
        lines = [f"{split}-{name} {folder / name}.wav\n" for name in ("m", "n")]
        (folder / "wav.scp").write_text("".join(lines))
        turn = f"SPEAKER {split}-m 1 0 1.5 <NA> <NA> "
        (folder / "rttm").write_text("".join(f"{turn}{who} <NA> <NA>\n" for who in "st"))
    with pytest.raises(CorpusError, match=r"'train-n' has no turns:speakers .* 3 of 6 rows"):
        prepared(tmp_path / "data", tmp_path / "out")
    corpus = prepared(tmp_path / "data", tmp_path / "out", partial=True)
    assert [cut.id for cut in corpus.cuts("test")] == ["test-m"]


def test_wrong_layouts_and_options_are_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="not Libri2Mix; expected wav16k"):
        prepared(tmp_path / "empty", tmp_path / "out")
    root = librimix(tmp_path / "in")
    with pytest.raises(CorpusError, match=r"mixture_train-360_mix_both.csv: missing; expected one"):
        prepared(root, tmp_path / "out", train="train-360")
    with pytest.raises(CorpusError, match="holds no .rttm file"):
        prepared(root, tmp_path / "out", rttm=tmp_path / "empty")
    with pytest.raises(ConfigError, match="--dev -1: expected 0 or more"):
        Libri2Mix(dev=-1)
    file = root / "Libri2Mix" / "wav16k" / "max" / "metadata" / "mixture_train-100_mix_both.csv"
    file.write_text(HEADER.replace("length", "samples") + "\n")
    with pytest.raises(CorpusError, match="no column 'length'; not LibriMix's metadata"):
        prepared(root, tmp_path / "out")
