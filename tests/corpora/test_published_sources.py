"""Published corpora in their own layouts: miniature trees; half an archive is named as that."""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mt4ssl_bench.corpora.check import check_corpus
from mt4ssl_bench.corpora.prepare_source import Request, prepare_source
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.source import FOLDER, SOURCES, catalogue
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import phones_of, speaker_of, text_of
from mt4ssl_bench.downstream.plan import plan
from mt4ssl_bench.errors import ConfigError, CorpusError

Voice = Callable[[Path], Path]


@pytest.fixture
def voice(request: pytest.FixtureRequest) -> Voice:
    """Write recordings to paths: real ones in turn where there are some, else noise of their
    own.
    """
    clips: list[np.ndarray] = []
    folder = Path(str(request.config.rootpath), "nowhere")
    try:
        folder = request.getfixturevalue("speech") / "fsdd_strings" / "audio"
        clips = [soundfile.read(file)[0] for file in sorted(folder.glob("*/*-train-00*.flac"))[:40]]
    except pytest.skip.Exception:
        rng = np.random.default_rng(0)
        clips = [0.1 * rng.standard_normal(16_000) for _ in range(40)]
    count = iter(range(10_000))

    def write(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        number = next(count)
        clip = clips[number % len(clips)][: 16_000 - number]  # no two files alike
        soundfile.write(path, clip, 16_000)
        return path

    return write


def libri(root: Path, voice: Voice, part: str, speakers: int = 2, each: int = 2) -> Path:
    prefix = {
        "train-clean-100": 15,
        "train-clean-360": 16,
        "dev-clean": 9,
        "test-clean": 10,
        "test-other": 11,
    }
    for speaker in range(speakers):
        name = f"{prefix.get(part, 5)}{speaker}"
        chapter = root / part / name / "100"
        lines = []
        for number in range(each):
            voice(chapter / f"{name}-100-{number:04}.flac")
            lines.append(f"{name}-100-{number:04} THE {'CAT SAT' if number else 'DOG RAN'}")
        (chapter / f"{name}-100.trans.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def rows(name: str, root: Path, **options: object) -> Iterable[Row]:
    source = SOURCES.get(name)
    return source.read(root, source.options(**options))


def prepared(
    name: str, root: Path | None, out: Path, request: Request | None = None, **options: object
) -> Corpus:
    """Make a corpus of a source as its command does."""
    source = SOURCES.get(name)
    asked = replace(request or Request(), roots={} if root is None else {"": root})
    return prepare_source(source, source.options(**options), out, asked).corpus


def sizes(corpus: Corpus) -> dict[str, int]:
    return {
        name: split.utterances
        for name, split in corpus.info.splits.items()
        if not name.startswith("sid_")
    }


def test_librispeech_parts_become_splits_and_other_ones_keep_their_names(
    tmp_path: Path, voice: Voice
) -> None:
    root = tmp_path / "in" / "LibriSpeech"
    for part in ("train-clean-100", "train-clean-360", "dev-clean", "test-clean", "test-other"):
        libri(root, voice, part)
    corpus = prepared("librispeech", tmp_path / "in", tmp_path / "out")
    assert sizes(corpus) == {"train": 4, "valid": 4, "test": 4, "test-other": 4}
    cut = next(cut for cut in corpus.cuts("train") if cut.id == "150-100-0001")
    assert (text_of(cut), speaker_of(cut)) == ("THE CAT SAT", "150")
    assert phones_of(cut) == "DH AH0 K AE1 T S AE1 T"
    assert corpus.info.fields == ["phones", "speaker", "text"]
    both = "train-clean-100, train-clean-360"
    assert sizes(prepared("librispeech", root, tmp_path / "both", train=both))["train"] == 8
    with pytest.raises(
        CorpusError,
        match="no train-other-500 in it; it holds train-clean-100, train-clean-360, dev",
    ):
        prepared("librispeech", root, tmp_path / "none", train="960")
    with pytest.raises(
        CorpusError, match="LibriSpeech has no part 'test-othr'; did you mean test-other"
    ):
        prepared("librispeech", root, tmp_path / "none", test="test-othr")
    with pytest.raises(ConfigError, match="part 'dev-clean' is named twice"):
        prepared("librispeech", root, tmp_path / "none", test="dev-clean")


def test_librispeech_without_a_validation_part_keeps_training_speakers_for_it(
    tmp_path: Path, voice: Voice
) -> None:
    libri(tmp_path / "in", voice, "train-clean-100", speakers=12)
    corpus = prepared("librispeech", tmp_path / "in", tmp_path / "out")
    assert sizes(corpus) == {"train": 22, "valid": 2}
    assert corpus.info.notes["valid"] == "held out of train here"
    assert not {speaker_of(c) for c in corpus.cuts("valid")} & {
        speaker_of(c) for c in corpus.cuts("train")
    }


def test_half_an_archive_is_named_counted_and_writes_nothing(tmp_path: Path, voice: Voice) -> None:
    root = libri(tmp_path / "in", voice, "train-clean-100")
    lost = sorted(root.glob("*/*/*/*.flac"))[:3]
    for file in lost:
        file.unlink()
    with pytest.raises(
        CorpusError,
        match="3 of its 4 audio files are missing, the first is .*150-100-0000.flac; is th",
    ):
        prepared("librispeech", root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    corpus = prepared("librispeech", root, tmp_path / "out", Request(partial=True))
    assert (sizes(corpus), corpus.info.notes["missing"]) == ({"train": 1}, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("150-100-0000\n", "line 1: '150-100-0000' has no value"),
        ("150 caf\xe9\n", "not UTF-8 (byte 7)"),
    ],
)
def test_a_damaged_transcript_is_named(
    tmp_path: Path, voice: Voice, text: str, message: str
) -> None:
    root = libri(tmp_path, voice, "train-clean-100", speakers=1)
    next(root.glob("*/*/*/*.trans.txt")).write_bytes(text.encode("latin-1"))
    with pytest.raises(CorpusError) as caught:
        list(rows("librispeech", root))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "title", "expected", "options"),
    [
        ("librispeech", "LibriSpeech", "trans.txt", {}),
        ("librilight", "Libri-light's small", "small/", {}),
        ("librilight", "Libri-light's labelled part", "1h/", {"labelled": "1h"}),
        ("voxceleb1", "VoxCeleb1", "wav/id1", {}),
        ("speechcommands", r"Speech Commands \(version 0.01\)", "_background_noise_/", {}),
        ("speechcommands", "Speech Commands", "testing_list.txt", {"split": "lists"}),
        ("timit", "TIMIT", "Tt", {}),
        ("speechocean762", "speechocean762", "train/wav.scp", {}),
        ("fsdd", "the Free Spoken Digit Dataset", "recordings/", {}),
    ],
)
def test_a_folder_that_is_not_the_corpus_is_named_with_what_it_holds(
    tmp_path: Path, name: str, title: str, expected: str, options: dict[str, str]
) -> None:
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(
        CorpusError, match=f"not {title}; expected .*{expected}.* in it, got holiday.jpg"
    ):
        list(rows(name, tmp_path, **options))
    with pytest.raises(CorpusError, match="gone: no such folder"):
        list(rows(name, tmp_path / "gone", **options))


def test_librilight_takes_every_recording_below_a_subset(tmp_path: Path, voice: Voice) -> None:
    for speaker in range(12):
        voice(tmp_path / "in" / "small" / f"{speaker}" / "some book_1" / "part_01.flac")
    corpus = prepared("librilight", tmp_path / "in", tmp_path / "out")
    assert sizes(corpus) == {"train": 11, "valid": 1}
    assert corpus.info.fields == ["speaker"]
    assert {cut.id for cut in corpus.cuts("train")} < {
        f"{n}-some book_1-part_01" for n in range(12)
    }


def test_librilights_ten_minutes_an_hour_and_ten_hours_nest(tmp_path: Path, voice: Voice) -> None:
    root = tmp_path / "in" / "librispeech_finetuning"
    for number, fold in enumerate(("1h/0/clean", "1h/0/other", "1h/1/clean", "9h/clean")):
        libri(root / Path(fold).parent, voice, Path(fold).name, speakers=1)
        (root / fold / "50").rename(root / fold / f"spk{number}")
        for file in (root / fold).glob("*/*/*"):
            content = file.read_bytes().replace(b"50-", b"5%d-" % number)
            file.unlink()
            file.with_name(file.name.replace("50-", f"5{number}-")).write_bytes(content)
    libri(tmp_path / "LibriSpeech", voice, "dev-clean")
    libri(tmp_path / "LibriSpeech", voice, "test-clean")
    for amount, count in (("10min", 4), ("1h", 6), ("10h", 8)):
        corpus = prepared(
            "librilight", tmp_path / "in", tmp_path / amount,
            labelled=amount, librispeech=tmp_path / "LibriSpeech",
        )  # fmt: skip
        assert sizes(corpus) == {"train": count, "valid": 4, "test": 4}


def test_voxceleb1_follows_its_identification_split(tmp_path: Path, voice: Voice) -> None:
    lines = []
    for speaker in range(3):
        for clip in range(1, 6):
            relative = f"id1000{speaker}/x6uYqmx31kE/{clip:05}.wav"
            voice(tmp_path / ("dev/wav" if speaker < 2 else "test/wav") / relative)
            lines.append(f"{1 if clip < 4 else clip - 2} {relative}")
    (tmp_path / "iden_split.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    corpus = prepared("voxceleb1", tmp_path, tmp_path / "out")
    assert sizes(corpus) == {"train": 9, "valid": 3, "test": 3}
    assert sorted(corpus.info.splits) == [
        "test",
        "train",
        "valid",
    ]  # every speaker is in each: no sid_ splits
    assert {cut.id for cut in corpus.cuts("test")} == {
        f"id1000{n}-x6uYqmx31kE-00005" for n in range(3)
    }
    assert {speaker_of(cut) for cut in corpus.cuts("valid")} == {"id10000", "id10001", "id10002"}
    (tmp_path / "iden_split.txt").write_text("1 id10001/a/00001.m4a\n", encoding="utf-8")
    with pytest.raises(
        CorpusError, match=r"line 1: '1 id10001/a/00001.m4a'; expected '1 id10001/video/00001.wav'"
    ):
        list(rows("voxceleb1", tmp_path))
    (tmp_path / "iden_split.txt").unlink()
    with pytest.raises(CorpusError, match=r"no identification split; get iden_split.txt"):
        list(rows("voxceleb1", tmp_path))


def test_voxceleb1_with_trials_is_split_by_speaker_and_keeps_its_identification_split(
    tmp_path: Path, voice: Voice
) -> None:
    lines = []
    for speaker in range(25):
        for clip in range(1, 4):
            relative = f"id10{speaker:03}/x6uYqmx31kE/{clip:05}.wav"
            voice(tmp_path / ("dev/wav" if speaker < 22 else "test/wav") / relative)
            lines.append(f"{clip} {relative}")
    (tmp_path / "iden_split.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    name = "id100{}/x6uYqmx31kE/0000{}.wav".format
    trials = [f"1 {name(22, 1)} {name(22, 2)}", f"0 {name(23, 1)} {name(24, 1)}"]
    (tmp_path / "voxceleb1_test_v2.txt").write_text("\n".join(trials) + "\n", encoding="utf-8")
    corpus = prepared("voxceleb1", tmp_path, tmp_path / "out")
    assert sizes(corpus) == {"train": 60, "valid": 6, "test": 9}
    assert {n: s.utterances for n, s in corpus.info.splits.items() if n.startswith("sid_")} == {
        "sid_train": 25, "sid_valid": 25, "sid_test": 25
    }  # fmt: skip
    assert corpus.list("trials") == [
        {"label": "1", "enrol_id": "id10022-x6uYqmx31kE-00001", "test_id": "id10022-x6uYqmx31kE-00002"},
        {"label": "0", "enrol_id": "id10023-x6uYqmx31kE-00001", "test_id": "id10024-x6uYqmx31kE-00001"},
    ]  # fmt: skip
    heard = [{speaker_of(cut) for cut in corpus.cuts(s)} for s in ("train", "valid", "test")]
    assert heard[2] == {"id10022", "id10023", "id10024"}
    assert sum(map(len, heard)) == len(set.union(*heard)) == 25
    assert prepared("voxceleb1", tmp_path, tmp_path / "again").info.digest == corpus.info.digest
    assert plan("ASV", corpus).splits("train") == ["train"]
    assert plan("SID", corpus).splits("train") == ["sid_train"]
    listed = tmp_path / "mine.txt"
    listed.write_text(f"1 {name(22, 1)} {name(99, 1)}\n", encoding="utf-8")
    with pytest.raises(
        CorpusError, match="row 1: test_id names no utterance of the corpus: 'id1009"
    ):
        prepared("voxceleb1", tmp_path, tmp_path / "wrong", trials=listed)
    listed.write_text("1 id10022/a/1.wav\n", encoding="utf-8")
    with pytest.raises(
        CorpusError, match="mine.txt, line 1: '1 id10022/a/1.wav'; expected '1 id10270"
    ):
        prepared("voxceleb1", tmp_path, tmp_path / "wrong", trials=listed)


def test_speech_commands_follows_its_lists(tmp_path: Path, voice: Voice) -> None:
    names = [
        f"{word}/{speaker}_nohash_0.wav"
        for word in ("yes", "no")
        for speaker in ("0a7c2a8d", "1b", "2c")
    ]
    for name in names:
        voice(tmp_path / "in" / name)
    voice(tmp_path / "in" / "_background_noise_" / "pink_noise.wav")
    (tmp_path / "in" / "validation_list.txt").write_text("yes/1b_nohash_0.wav\n", encoding="utf-8")
    (tmp_path / "in" / "testing_list.txt").write_text("no/2c_nohash_0.wav\n", encoding="utf-8")
    lists = {"split": "lists"}
    corpus = prepared("speechcommands", tmp_path / "in", tmp_path / "out", **lists)
    assert sizes(corpus) == {"train": 4, "valid": 1, "test": 1}
    cut = next(iter(corpus.cuts("test")))
    assert (cut.id, text_of(cut), speaker_of(cut), phones_of(cut)) == (
        "no-2c_nohash_0",
        "NO",
        "2c",
        "N OW1",
    )
    shutil.rmtree(tmp_path / "in" / "no")
    with pytest.raises(CorpusError, match="1 of its 4 audio files are missing"):
        prepared("speechcommands", tmp_path / "in", tmp_path / "again", **lists)


@pytest.mark.parametrize("upper", [True, False])
def test_timit_folds_its_phones_and_keeps_the_usual_speakers(
    tmp_path: Path, voice: Voice, *, upper: bool
) -> None:
    for part, speaker in (
        ("TRAIN", "FCJF0"),
        ("TEST", "FAKS0"),
        ("TEST", "FELC0"),
        ("TEST", "MABW9"),
    ):
        for sentence in ("SA1", "SI648"):
            stem = Path("data", part, "DR1", speaker, sentence)
            stem = stem if upper else Path("data", *(piece.lower() for piece in stem.parts[1:]))
            file = voice(tmp_path / "in" / stem.with_suffix(".WAV" if upper else ".wav"))
            text = "0 46797 She had your dark suit, in greasy-wash.\n"
            file.with_suffix(".TXT" if upper else ".txt").write_text(text, encoding="utf-8")
            labels = (
                "0 2190 h#\n2190 3000 sh\n3000 4000 ix\n4000 4500 q\n4500 5000 kcl\n5000 6000 h#\n"
            )
            file.with_suffix(".PHN" if upper else ".phn").write_text(labels, encoding="utf-8")
    corpus = prepared("timit", tmp_path / "in", tmp_path / "out")
    assert sizes(corpus) == {"train": 1, "valid": 1, "test": 1}
    cut = next(iter(corpus.cuts("train")))
    assert (cut.id, text_of(cut)) == ("fcjf0-si648", "SHE HAD YOUR DARK SUIT IN GREASY WASH")
    assert phones_of(cut) == "sil sh ih sil sil"
    assert corpus.info.phones_from == "TIMIT's labels, 39 phones"


def test_speechocean762_keeps_its_split_and_its_annotators_phones(
    tmp_path: Path, voice: Voice
) -> None:
    root = tmp_path / "in" / "speechocean762"
    phones = []
    for split, speakers in (("train", range(1, 11)), ("test", range(11, 13))):
        files: dict[str, list[str]] = {"wav.scp": [], "text": [], "utt2spk": []}
        for number in speakers:
            name, path = f"{number:04}0011", f"WAVE/SPEAKER{number:04}/{number:04}0011.WAV"
            voice(root / path)
            files["wav.scp"].append(f"{name}\t{path}")
            files["text"].append(f"{name}\tWE CALL")
            files["utt2spk"].append(f"{name} {number:04}")
            phones += [f"{name}.0\tW_B IY0_E", f"{name}.1\tK_B AO0_I L_E"]
        (root / split).mkdir()
        for file, lines in files.items():
            (root / split / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    (root / "resource").mkdir()
    (root / "resource" / "text-phone").write_text("\n".join(phones) + "\n", encoding="utf-8")
    corpus = prepared("speechocean762", tmp_path / "in", tmp_path / "out")
    assert sizes(corpus) == {"train": 9, "valid": 1, "test": 2}
    cut = next(iter(corpus.cuts("test")))
    assert (text_of(cut), phones_of(cut), corpus.info.phones_from) == (
        "WE CALL",
        "W IY0 K AO0 L",
        "its annotators",
    )
    (root / "resource" / "text-phone").write_text("\n".join(phones[2:]) + "\n", encoding="utf-8")
    with pytest.raises(
        CorpusError, match="utterance '00010011' of train/wav.scp lacks text, speaker or phones"
    ):
        list(rows("speechocean762", root))


def test_fsdds_first_five_of_each_digit_are_its_test(tmp_path: Path, voice: Voice) -> None:
    for speaker in ("jackson", "theo"):
        for number in range(12):
            voice(
                tmp_path
                / "in"
                / "free-spoken-digit-dataset-1.0.10"
                / "recordings"
                / f"7_{speaker}_{number}.wav"
            )
    corpus = prepared("fsdd", tmp_path / "in", tmp_path / "out")
    assert sizes(corpus) == {"train": 4, "valid": 10, "test": 10}
    cut = next(cut for cut in corpus.cuts("test") if cut.id == "7_theo_4")
    assert (text_of(cut), speaker_of(cut), phones_of(cut)) == ("SEVEN", "theo", "S EH1 V AH0 N")


def test_what_cannot_be_downloaded_says_how_it_is_obtained(tmp_path: Path) -> None:
    fetch = Request(download=True)
    with pytest.raises(
        ConfigError, match=r"prepare voxceleb1: no program may download it; ask its authors"
    ):
        prepared("voxceleb1", None, tmp_path, fetch)
    with pytest.raises(
        ConfigError, match=r"prepare timit: expected --from DIR, the corpus's folder; order it"
    ):
        prepared("timit", None, tmp_path)
    with pytest.raises(
        ConfigError, match=r"no part 'train-clean-10' to download; did you mean train-clean-100"
    ):
        prepared("librispeech", None, tmp_path, fetch, train="train-clean-10")


def test_every_source_of_this_package_is_found_by_its_name() -> None:
    for name in SOURCES:
        source = SOURCES.get(name)
        assert source.name == name
        assert source.about
        assert not source.about.endswith(".")
        assert source.examples
        assert all(example.startswith(f"{name} ") for example in source.examples)
    published = [source for source in catalogue().values() if source.takes is FOLDER]
    assert len(published) >= 9
    assert list(catalogue().values())[: len(published)] == published
    for source in published:
        assert source.licence, source.citation
        assert source.homepage.startswith("https://")
        assert source.archives or source.obtain


@pytest.mark.speech
@pytest.mark.long
def test_a_real_librispeech_tree_reaches_the_leaderboard(speech: Path, tmp_path: Path) -> None:
    """Three rows of a few updates.

    The tree's transcripts are machine-made, so that no number here means anything.
    """
    from mt4ssl_bench.downstream.evaluate import evaluate

    source = speech / "librispeech_mini"
    corpus = prepared("librispeech", source, tmp_path / "ls", test="test-other")
    assert sizes(corpus) == {"train": 45, "valid": 5, "test": 60}
    assert {name: corpus.info.splits[name].speakers for name in ("train", "test", "sid_train")} == {
        "train": 45, "test": 6, "sid_train": 56,
    }  # fmt: skip
    report = check_corpus(corpus, full=True)
    assert not report.invalid
    data = Path(__file__).parents[1] / "fixtures"
    recipes = [str(data / f"toy_{task}.yaml") for task in ("phoneme", "asr", "speaker")]
    keys = ["steps=4", "validate_every=2", "sweep=[1e-2]"]
    outcome = evaluate(
        ["fbank"], recipes, corpus.root, out=tmp_path / "results", overrides=keys, device="cpu"
    )
    assert not outcome.failures
    assert {next(iter(result.metrics)) for result in outcome.results} == {"per", "wer", "acc"}
