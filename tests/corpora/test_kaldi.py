"""Kaldi's data folders: utterances, gaps and silence.

Commands are refused with two that write files.
"""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mt4ssl_bench.cli.app import app
from mt4ssl_bench.corpora.sources import kaldi
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import is_silent, speaker_of, text_of
from mt4ssl_bench.errors import CorpusError

RATE = 16_000


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe's folder: 'wav files/one.wav' (3 s), two.flac (2 s), and data/train."""
    rng = np.random.default_rng(0)
    (tmp_path / "wav files").mkdir()
    (tmp_path / "data" / "train").mkdir(parents=True)
    soundfile.write(tmp_path / "wav files" / "one.wav", 0.1 * rng.standard_normal(3 * RATE), RATE)
    soundfile.write(tmp_path / "two.flac", 0.1 * rng.standard_normal(2 * RATE), RATE)
    write(tmp_path, "wav.scp", "r1 wav files/one.wav", "r2\ttwo.flac")
    write(tmp_path, "text", "r1 ONE  TWO", "r2 THREE")
    write(tmp_path, "utt2spk", "r1 ann", "r2 bob")
    return tmp_path


def write(recipe: Path, name: str, *lines: str) -> None:
    text = "".join(f"{line}\n" for line in lines)
    (recipe / "data" / "train" / name).write_text(text, encoding="utf-8")


def prepared(recipe: Path, *options: str) -> Corpus:
    data = recipe / "data" / "train"
    command = ["prepare", "kaldi", f"train={data}", "--out", str(recipe / "out"), *options]
    app(command, standalone_mode=False)
    return Corpus.open(recipe / "out")


def cuts_of(corpus: Corpus) -> dict[str, object]:
    return {cut.id: cut for split in ("train", "valid") for cut in corpus.cuts(split)}


def test_recordings_are_utterances_and_paths_may_have_spaces(recipe: Path) -> None:
    corpus = prepared(recipe)
    cuts = cuts_of(corpus)
    assert {key: (text_of(cut), speaker_of(cut)) for key, cut in cuts.items()} == {
        "r1": ("ONE TWO", "ann"),
        "r2": ("THREE", "bob"),
    }
    assert corpus.info.fields == ["phones", "speaker", "text"]
    assert corpus.info.languages == ["en"]


def test_segments_are_utterances_and_what_lies_nowhere_is_left_out(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(
        recipe, "segments", "a r1 0.5 1.5", "b r1 1.5 -1", "c r2 0 2.05", "late r2 1.5 3.5",
        "none r2 1 1", "back r2 1.5 1", "lost r9 0 1", "nan r2 nan 1",
    )  # fmt: skip
    names = ("a", "b", "c", "late", "none", "back", "lost", "nan")
    write(recipe, "text", *(f"{name} WORD" for name in names), "stranger WORD")
    write(recipe, "utt2spk", *(f"{name} ann" for name in names))
    corpus = prepared(recipe)
    cuts = cuts_of(corpus)
    places = {key: (cut.start, cut.duration) for key, cut in cuts.items()}
    assert places == {"a": (0.5, 1.0), "b": (1.5, 1.5), "c": (0.0, pytest.approx(2.05))}
    whole = soundfile.read(recipe / "wav files" / "one.wav", dtype="float32")[0]
    assert np.array_equal(audio.read(cuts["b"]), whole[24_000:])
    notes = corpus.info.notes
    assert (notes["outside"], notes["no_duration"], notes["no_recording"]) == (1, 3, 1)
    said = capsys.readouterr()
    assert "text: 1 of 9 lines belong to no utterance; the first is 'stranger'" in said.err
    assert "left out: 1 utterances whose recording is not listed" in said.out


def test_a_line_without_words_is_silence_and_no_line_is_a_gap(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(recipe, "segments", "a r1 0 1", "b r1 1 2", "c r2 0 1")
    write(recipe, "text", "a ONE", "b ", "c TWO")
    (recipe / "data" / "train" / "utt2spk").unlink()
    corpus = prepared(recipe)
    assert [key for key, cut in cuts_of(corpus).items() if is_silent(cut)] == ["b"]
    assert corpus.info.fields == ["phones", "text"]
    assert "no utt2spk, so that its utterances have no speaker" in capsys.readouterr().err
    write(recipe, "text", "a ONE", "b ")
    rows = {
        row.id: (row.text, row.silent)
        for row in kaldi.read(recipe / "data" / "train", kaldi.Kaldi())
    }
    assert rows == {"a": ("ONE", False), "b": ("", True), "c": ("", False)}


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        (
            "wav.scp",
            ["r1 cat a.wav |"],
            "'r1' is the output of a command ('cat a.wav |'), which is",
        ),
        ("wav.scp", ["r1 two.flac", "r2 | cat"], "'r2' is the output of a command ('| cat')"),
        (
            "wav.scp",
            ["r1 raw.ark:1234"],
            "'r1' is 'raw.ark:1234', an extended filename; expected a",
        ),
        ("wav.scp", ["r1 ark:raw.ark"], "'r1' is 'ark:raw.ark', an extended filename"),
        ("wav.scp", ["r1 -"], "'r1' is '-', an extended filename"),
        ("wav.scp", ["r1"], "wav.scp, line 1: 'r1' has no value; expected an id and one"),
        ("wav.scp", ["r1 two.flac", "r1 two.flac"], "wav.scp, line 2: duplicate id 'r1'"),
        ("wav.scp", ["r1 gone.wav", "r2 two.flac"], "2 of its 2 audio files are missing"),
        ("segments", ["a r1 0 1 A"], "segments: 'a r1 0 1 A'; expected utterance recording start"),
        ("segments", [], "segments: holds no utterance"),
        (
            "segments",
            ["a r1 zero 1"],
            "segments: 'a r1 zero 1'; expected utterance recording start",
        ),
    ],
)
def test_a_bad_folder_is_named_and_nothing_is_written(
    recipe: Path, name: str, lines: list[str], message: str
) -> None:
    write(recipe, name, *lines)
    with pytest.raises(CorpusError) as caught:
        prepared(recipe)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (recipe / "out").exists()


def test_what_is_no_data_folder_is_said_with_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "feats.scp").touch()
    with pytest.raises(CorpusError, match=r"expected a Kaldi data folder with wav\.scp .* feats"):
        list(kaldi.read(tmp_path, kaldi.Kaldi()))
    with pytest.raises(CorpusError, match="expected a Kaldi data folder with wav.scp in it, got a"):
        list(kaldi.read(tmp_path / "feats.scp", kaldi.Kaldi()))


def test_the_two_commands_of_the_error_write_files(recipe: Path) -> None:
    write(recipe, "wav.scp", "r1 cat 'wav files/one.wav' | cat |", "r2 two.flac")
    with pytest.raises(CorpusError) as caught:
        prepared(recipe)
    _, _, commands = str(caught.value).partition("where its paths start from: ")
    for command in commands.split(" ; then: "):
        subprocess.run(["bash", "-ec", command], cwd=recipe, check=True)
    corpus = prepared(recipe)
    whole = soundfile.read(recipe / "wav files" / "one.wav", dtype="float32")[0]
    assert np.array_equal(audio.read(cuts_of(corpus)["r1"]), whole)
    assert len(audio.read(cuts_of(corpus)["r2"])) == 2 * RATE
