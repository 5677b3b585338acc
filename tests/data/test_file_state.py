"""Audio that changes under a corpus is refused where it or its features are used."""

import gzip
import json
import os
import shutil
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from mt4ssl_bench.corpora.check import check_corpus
from mt4ssl_bench.corpora.prepare_source import Request, prepare_path
from mt4ssl_bench.corpora.segment import segment_corpus
from mt4ssl_bench.corpora.shard import shard_corpus
from mt4ssl_bench.data import audio, audio_headers, file_state
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cuts import write_cuts
from mt4ssl_bench.data.file_state import content_of, on_disk
from mt4ssl_bench.encoders.load import load_upstream
from mt4ssl_bench.errors import AudioChangedError, CorpusError
from mt4ssl_bench.features.extract import extract
from mt4ssl_bench.features.file import FeatureSet, StoredFeatures
from mt4ssl_bench.features.forward_pass import Pass
from mt4ssl_bench.features.store import FeatureStore, StoreConfig
from mt4ssl_bench.upstream.batches import PretrainData
from mt4ssl_bench.upstream.config import DataConfig

DATA = DataConfig(min_seconds=0.5, max_seconds=5.0, workers=0)
NAMED = r"utterance 's1-4': .*audio/s1-4\.wav changed since the corpus was prepared; prepare"


@pytest.fixture
def tones(manifest: Path, tmp_path: Path) -> Corpus:
    """A corpus of WAV files that holds its audio, so that it can be moved."""
    folder = tmp_path / "tones"
    (folder / "audio").mkdir(parents=True)
    for path in (manifest.parent / "audio").glob("*.flac"):
        soundfile.write(folder / "audio" / f"{path.stem}.wav", *soundfile.read(path))
    text = manifest.read_text(encoding="utf-8").replace(".flac", ".wav")
    (folder / "manifest.tsv").write_text(text, encoding="utf-8")
    return prepare_path("table", folder / "manifest.tsv", folder, Request(name="tones"))


def overwrite(corpus: Corpus, *, longer: bool = False) -> Path:
    """Put s1-4 backwards in its place: as many bytes, or with a second of noise behind it."""
    path = corpus.root / "audio" / "s1-4.wav"
    samples, rate = soundfile.read(path)
    before = path.stat().st_size
    noise = 0.1 * np.random.default_rng(0).standard_normal(rate if longer else 0)
    soundfile.write(path, np.concatenate([samples[::-1], noise]), rate)
    assert (path.stat().st_size == before) is not longer
    return path


def cuts_of(corpus: Corpus, split: str = "train") -> list[Any]:
    return list(corpus.cuts(split))


def features(corpus: Corpus, store: Path) -> FeatureSet:
    forward, cuts = Pass(load_upstream("fbank")), cuts_of(corpus)
    return FeatureStore(store, StoreConfig()).features(forward, corpus.info.digest, "train", cuts)


@pytest.mark.parametrize("longer", [False, True])
def test_features_stored_before_a_change_are_not_used(
    tones: Corpus, tmp_path: Path, *, longer: bool
) -> None:
    assert isinstance(features(tones, tmp_path / "store"), StoredFeatures)
    overwrite(tones, longer=longer)
    with pytest.raises(AudioChangedError, match=NAMED):
        features(tones, tmp_path / "store")


def test_changed_audio_is_not_read_and_not_left_out_either(tones: Corpus, tmp_path: Path) -> None:
    path = overwrite(tones)
    for cut in cuts_of(tones):
        if cut.id == "s1-4":
            with pytest.raises(AudioChangedError, match=NAMED):
                audio.read(cut)
        else:
            audio.read(cut)
    with pytest.raises(AudioChangedError, match=NAMED):
        PretrainData([tones], "train", replace(DATA, max_unreadable=1.0), None, normalized=True)
    with pytest.raises(AudioChangedError, match=NAMED):
        shard_corpus(tones, tmp_path / "shards")
    with pytest.raises(AudioChangedError, match=NAMED):
        extract("fbank", corpus=tones.root, out=tmp_path / "states")
    path.unlink()  # what is missing or cannot be read is left out and counted, as ever
    PretrainData([tones], "train", replace(DATA, max_unreadable=1.0), None, normalized=True)


def test_a_pretraining_that_opens_many_files_looks_at_some_and_reads_the_others(
    tones: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio, "LOOK", 3)
    places = [cut.id for cut in cuts_of(tones)]
    looked = places[::6]
    assert "s1-4" not in looked
    overwrite(tones)
    data = PretrainData([tones], "train", DATA, None, normalized=True)
    with pytest.raises(AudioChangedError, match=NAMED):
        list(data(0))


def test_a_touched_file_costs_one_digest_and_a_copied_corpus_one_for_each(
    tones: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digested: list[str] = []

    def counted(path: Path) -> str:
        digested.append(path.name)
        return content_of(path)

    monkeypatch.setattr(file_state, "content_of", counted)
    cuts = cuts_of(tones)
    for cut in cuts:
        audio.read(cut)
    assert not digested
    os.utime(tones.root / "audio" / "s1-4.wav")
    for cut in cuts * 3:
        audio.read(cut)
    assert digested == ["s1-4.wav"]
    shutil.copytree(tones.root, tmp_path / "moved", copy_function=shutil.copyfile)  # new times
    digested.clear()
    moved = Corpus.open(tmp_path / "moved")
    for cut in cuts_of(moved) * 2:
        audio.read(cut)
    assert sorted(digested) == sorted(f"{cut.id}.wav" for cut in cuts)
    assert moved.info.digest == tones.info.digest


def test_a_corpus_of_an_earlier_version_notes_nothing_and_is_read_as_before(tones: Corpus) -> None:
    for split in tones.info.splits:
        file = tones.root / f"{split}.jsonl.gz"
        lines = [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
        assert all(line["custom"].keys() == {"content", "bytes", "modified"} for line in lines)
        write_cuts(
            file,
            [line | {"custom": {"content": line["custom"]["content"]}} for line in lines],
        )
    overwrite(tones, longer=True)
    old = Corpus.open(tones.root)
    for cut in cuts_of(old):
        audio.read(cut)
    assert "changed" not in check_corpus(old).counts()
    assert check_corpus(old, full=True).counts()["changed"] == 1


def test_check_finds_a_change_by_headers(tones: Corpus) -> None:
    assert "changed" not in check_corpus(tones).counts()
    overwrite(tones)
    assert check_corpus(tones).counts()["changed"] == 1


def test_pieces_of_a_segmented_corpus_note_their_file_and_shards_need_none(
    tmp_path: Path,
) -> None:
    (tmp_path / "long").mkdir()
    noise = 0.1 * np.random.default_rng(0).standard_normal(12 * audio.RATE)
    soundfile.write(tmp_path / "long" / "a.wav", noise, audio.RATE)
    corpus = prepare_path("folder", tmp_path / "long", tmp_path / "corpus")
    pieces = segment_corpus(corpus, tmp_path / "pieces", max_seconds=4, min_seconds=1)
    shards = shard_corpus(pieces, tmp_path / "shards")
    soundfile.write(tmp_path / "long" / "a.wav", noise[::-1], audio.RATE)
    with pytest.raises(AudioChangedError, match=r"utterance 'a-0000': .*a\.wav changed"):
        audio.read(pieces.cuts("train")[0])
    for cut in shards.cuts("train"):
        audio.read(cut)


# ---- one name, two spellings ----


@pytest.mark.parametrize(("disk", "stated"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_a_name_in_another_unicode_form_is_the_same_name(
    tmp_path: Path, disk: str, stated: str
) -> None:
    folder = tmp_path / unicodedata.normalize(disk, "Süd")
    folder.mkdir()
    file = folder / unicodedata.normalize(disk, "café über.wav")
    soundfile.write(file, np.full(16_000, 0.25, np.float32), audio.RATE, subtype="FLOAT")
    name = unicodedata.normalize(stated, "Süd/café über.wav")
    assert not (tmp_path / name).exists()
    manifest = tmp_path / "manifest.tsv"
    manifest.write_text(f"id\tpath\tsplit\na\t{name}\ttrain\n", encoding="utf-8")
    corpus = prepare_path("table", manifest, tmp_path / "out")
    cut = corpus.cuts("train")[0]
    assert cut.recording.sources[0].source == str(file)
    assert audio.read(cut).tolist() == [0.25] * 16_000
    folder.rename(tmp_path / unicodedata.normalize(stated, "Süd"))  # as another file system has it
    assert len(audio.read(cut)) == 16_000
    assert not check_corpus(corpus, full=True).counts().keys() & {"missing", "changed"}


def test_two_files_that_differ_in_unicode_form_are_two_files(tmp_path: Path) -> None:
    for number, form in enumerate(("NFC", "NFD")):
        name = unicodedata.normalize(form, "é.wav")
        soundfile.write(tmp_path / name, np.full(1600, number / 4), audio.RATE, subtype="FLOAT")
        assert on_disk(tmp_path / name).name == name
        assert audio.read_file(tmp_path / name)[0] == number / 4
    missing = tmp_path / "ü.wav"
    assert on_disk(missing) == missing
    with pytest.raises(CorpusError, match=r"ü\.wav: no such file"):
        audio_headers.probe(missing)
