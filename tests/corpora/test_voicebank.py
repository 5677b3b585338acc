"""VoiceBank-DEMAND in a miniature tree of its own layout, at both sample rates."""

from pathlib import Path

import numpy as np
import pytest

from builders import write_noise
from mt4ssl_bench.corpora.prepare_source import Request, prepare_source
from mt4ssl_bench.corpora.source import SOURCES
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import others_of, speaker_of
from mt4ssl_bench.downstream.plan import plan
from mt4ssl_bench.errors import CorpusError

NAMES = {
    "trainset_28spk_wav": ("p226_001", "p227_001", "p227_002", "p287_003"),
    "testset_wav": ("p232_001", "p257_005"),
}


def write(root: Path, end: str = "", rate: int = 48_000) -> Path:
    for part, names in NAMES.items():
        for kind in ("clean", "noisy"):
            for name in names:
                write_noise(root / f"{kind}_{part}{end}" / f"{name}.wav", 0.2, rate)
    return root


def prepared(root: Path, out: Path, *, partial: bool = False) -> Corpus:
    source = SOURCES.get("voicebank")
    request = Request(roots={"": root}, partial=partial)
    return prepare_source(source, source.options(audio=out / "audio"), out, request).corpus


@pytest.mark.parametrize(("end", "rate"), [("", 48_000), ("_16k", 16_000)])
def test_splits_are_superbs_and_clean_speech_is_beside_noisy(
    tmp_path: Path, end: str, rate: int
) -> None:
    root = write(tmp_path / "in" / "DS_10283_2791", end, rate)
    corpus = prepared(root.parent, tmp_path / "out")
    names = {
        split: sorted(c.id for c in corpus.cuts(split)) for split in ("train", "valid", "test")
    }
    assert names == {
        "train": ["p227_001", "p227_002"],
        "valid": ["p226_001", "p287_003"],
        "test": ["p232_001", "p257_005"],
    }
    assert corpus.info.fields == ["other:clean", "speaker"]
    cut = next(iter(corpus.cuts("test")))
    assert speaker_of(cut) == "p232"
    assert others_of(cut)["clean"] == root / f"clean_testset_wav{end}" / "p232_001.wav"
    noisy, clean = audio.read(cut), audio.read(cut, "clean")
    assert len(noisy) == len(clean) == 3200, "16 kHz"
    np.testing.assert_array_equal(noisy, clean)  # noise of one name
    assert plan("SE", corpus, ["measures=si_sdri"]).recipe == "enhancement_tiny"


def test_folders_of_16_khz_are_preferred(tmp_path: Path) -> None:
    root = write(write(tmp_path / "in"), "_16k", 16_000)
    cuts = list(prepared(root, tmp_path / "out").cuts("train"))
    assert {cut.recording.sampling_rate for cut in cuts} == {16_000}


def test_what_is_not_as_published_is_named(tmp_path: Path) -> None:
    root = write(tmp_path / "in")
    clean = root / "clean_testset_wav"
    (clean / "p232_001.wav").unlink()
    with pytest.raises(CorpusError, match=r"1 of its 12 audio files are missing.*p232_001"):
        prepared(root, tmp_path / "out")
    write_noise(clean / "p232_001.wav", 0.3, 48_000)
    with pytest.raises(CorpusError, match="p232_001") as error:
        prepared(root, tmp_path / "out")
    assert "clean has 14,400 samples at 48,000 Hz, its own audio 9,600" in str(error.value)
    corpus = prepared(root, tmp_path / "out", partial=True)
    assert corpus.info.splits["test"].utterances == 1
    write_noise(clean / "p232.wav")
    with pytest.raises(CorpusError, match="'p232.wav'; expected <speaker>_<number>.wav"):
        prepared(root, tmp_path / "out2")
    clean.rename(root / "clean_testset")
    with pytest.raises(CorpusError, match="no clean_testset_wav beside noisy_testset_wav; expect"):
        prepared(root, tmp_path / "out2")
    with pytest.raises(CorpusError, match="not VoiceBank-DEMAND; expected noisy_trainset_28spk"):
        prepared(clean.with_name("noisy_testset_wav"), tmp_path / "out2")
