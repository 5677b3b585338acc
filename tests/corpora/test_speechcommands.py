"""Speech Commands as SUPERB splits it: the hash, unknown words, noise crops, the test archive."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from builders import refused, write_noise
from mt4ssl_bench.corpora.check import check_corpus
from mt4ssl_bench.corpora.prepare_source import Request, prepare_source
from mt4ssl_bench.corpora.source import SOURCES
from mt4ssl_bench.corpora.sources.speechcommands import part_of
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import Cut, label_of, speaker_of

WORDS = ("yes", "no", "bed")  # the last one is no class
SPEAKERS = [hashlib.sha256(bytes([n])).hexdigest()[:8] for n in range(40)]


def archives(root: Path, train: str = "train", test: str = "test") -> Path:
    """Write both archives: 40 speakers of three words, two noises, and a test of four classes."""
    for take, word in enumerate(WORDS):
        for speaker in SPEAKERS:
            write_noise(root / train / word / f"{speaker}_nohash_{take}.wav")
    for seconds, name in ((4, "pink_noise"), (2.5, "running_tap")):
        write_noise(root / train / "_background_noise_" / f"{name}.wav", seconds)
    (root / train / "_background_noise_" / "README.md").write_text("about the noises")
    (root / train / "validation_list.txt").write_text("no/gone_nohash_0.wav\n")  # not read
    for name in ("yes/0a_nohash_0", "no/0a_nohash_1", "_unknown_/cat_0b_nohash_0", "_silence_/2"):
        write_noise(root / test / f"{name}.wav", 1)
    return root


def prepared(root: Path, out: Path, **options: object) -> Corpus:
    source = SOURCES.get("speechcommands")
    request = Request(roots={"": root})
    return prepare_source(source, source.options(**options), out, request).corpus


def cuts_of(corpus: Corpus, split: str) -> dict[str, Cut]:
    return {cut.id: cut for cut in corpus.cuts(split)}


def test_the_split_is_s3prls(tmp_path: Path) -> None:
    corpora = pytest.importorskip("s3prl.dataio.corpus.speech_commands")
    archives(tmp_path)
    theirs = corpora.SpeechCommandsV1.split_dataset(tmp_path / "train")
    sizes = [len(part) for part in theirs]
    assert min(sizes) > 0
    assert sum(sizes) < len(WORDS) * len(SPEAKERS), "a part of the speakers is left out"
    corpus = prepared(tmp_path, tmp_path / "out", noise_crops=5)
    for split, part in zip(("train", "valid"), theirs, strict=True):
        expected = {(f"{word}-{file.stem}", word) for word, file in part}
        ours = cuts_of(corpus, split)
        words = {name: cut for name, cut in ours.items() if label_of(cut, "keyword")[1] != "s"}
        assert words.keys() == {name for name, _ in expected}
        for name, word in expected:
            keyword = "_unknown_" if word == "bed" else word
            assert label_of(words[name], "keyword") == keyword
            assert speaker_of(words[name]) == name.split("-")[1].split("_")[0]


def test_the_hash_of_many_speakers_is_s3prls(tmp_path: Path) -> None:
    corpora = pytest.importorskip("s3prl.dataio.corpus.speech_commands")
    names = [
        f"{hashlib.sha256(str(n).encode()).hexdigest()[:8]}_nohash_{n % 5}" for n in range(500)
    ]
    (tmp_path / "yes").mkdir()
    for name in names:
        (tmp_path / "yes" / f"{name}.wav").touch()
    train, valid = corpora.SpeechCommandsV1.split_dataset(tmp_path)
    theirs = {file.name: "train" for _, file in train} | {file.name: "valid" for _, file in valid}
    ours = {f"{name}.wav": part_of(f"{name}.wav") for name in names}
    assert {name: part for name, part in ours.items() if part} == theirs
    shares = Counter(ours.values())
    assert 300 < shares["train"] < 450
    assert min(shares["valid"], shares[""]) > 20


def test_noises_are_cut_into_seeded_crops_of_a_second_other_ones_for_valid(tmp_path: Path) -> None:
    corpus = prepared(archives(tmp_path), tmp_path / "out", noise_crops=7)
    places: list[tuple[str, float]] = []
    for split in ("train", "valid"):
        crops = [c for c in corpus.cuts(split) if label_of(c, "keyword") == "_silence_"]
        assert len(crops) == 2 * 7, "of each file"
        for cut in crops:
            assert len(audio.read(cut)) == 16_000
            places.append((str(cut.recording.sources[0].source), cut.start))
    assert len(set(places)) == len(places) == 4 * 7
    assert max(start for file, start in places if "tap" in file) <= 1.5
    again = prepared(tmp_path, tmp_path / "again", noise_crops=7)
    assert again.info.digest == corpus.info.digest
    more = prepared(tmp_path, tmp_path / "more", noise_crops=8)
    assert more.info.digest != corpus.info.digest
    assert not check_corpus(corpus).counts(), "two crops are no duplicates"


def test_a_noise_of_less_than_its_crops_gives_those_that_there_are(tmp_path: Path) -> None:
    archives(tmp_path)
    write_noise(tmp_path / "train" / "_background_noise_" / "short.wav", 1.004)
    corpus = prepared(tmp_path, tmp_path / "out", noise_crops=7)
    for split in ("train", "valid"):
        assert sum("short" in cut.id for cut in corpus.cuts(split)) == 2


def test_test_is_the_other_archive_wherever_it_lies(tmp_path: Path) -> None:
    corpus = prepared(archives(tmp_path), tmp_path / "out", noise_crops=3)
    found = {name: label_of(cut, "keyword") for name, cut in cuts_of(corpus, "test").items()}
    assert found == {
        "test-yes-0a_nohash_0": "yes",
        "test-no-0a_nohash_1": "no",
        "test-_unknown_-cat_0b_nohash_0": "_unknown_",
        "test-_silence_-2": "_silence_",
    }
    assert speaker_of(cuts_of(corpus, "test")["test-_unknown_-cat_0b_nohash_0"]) == "0b"
    names = ("speech_commands_v0.01", "speech_commands_test_set_v0.01")
    downloaded = prepared(archives(tmp_path / "in", *names), tmp_path / "two", noise_crops=3)
    assert downloaded.info.digest == corpus.info.digest
    (tmp_path / "test").rename(tmp_path / "elsewhere")
    train, elsewhere = tmp_path / "train", tmp_path / "elsewhere"
    named = prepared(train, tmp_path / "three", noise_crops=3, test=elsewhere)
    assert named.info.digest == corpus.info.digest


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        ("test", (), "not the test archive of Speech Commands, which --test names (--split lists"),
        ("train/no", (), "train: no recording of no, which "),
        ("train/_background_noise_", (), "not Speech Commands (version 0.01); expected _backgroun"),
        ("", ("--noise-crops", 0), "--noise-crops 0: expected 1 or more"),
        ("", ("--split", "lists"), "not Speech Commands; expected testing_list.txt in it"),
    ],
)
def test_what_is_not_as_published_is_named(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: str,
    options: tuple[object, ...],
    message: str,
) -> None:
    archives(tmp_path)
    if spoil:
        (tmp_path / spoil).rename(tmp_path.parent / f"{tmp_path.name}-away")
    out = tmp_path / "out"
    command = ("prepare", "speechcommands", "--from", tmp_path, "--out", out)
    assert message in refused(capsys, *command, *options)
    assert not (out / "corpus.json").exists()


def test_a_noise_that_is_shorter_than_a_crop_is_named(tmp_path: Path, capsys: Any) -> None:
    write_noise(archives(tmp_path) / "train" / "_background_noise_" / "click.wav", 0.5)
    said = refused(capsys, "prepare", "speechcommands", "--from", tmp_path, "--out", tmp_path / "o")
    assert "click.wav: 0.50 s; expected a noise longer than 1 s" in said


@pytest.mark.speech
def test_real_commands_of_this_layout(speech: Path, tmp_path: Path) -> None:
    root = speech / "tasks" / "arabic_speech_commands_mini"
    corpus = prepared(root, tmp_path / "out", noise_crops=20)
    counts = Counter(label_of(cut, "keyword") for cut in corpus.cuts("test"))
    assert (len(counts), counts["_unknown_"], counts["_silence_"], counts["yes"]) == (12, 45, 24, 9)
    for split, (speakers, words) in {"train": (16, 720), "valid": (6, 270)}.items():
        assert corpus.info.splits[split].speakers == speakers
        assert corpus.info.splits[split].utterances == words + 2 * 20
