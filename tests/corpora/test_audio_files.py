"""Hidden files and a system's own are no utterances: they are skipped, and counted in one line."""

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mt4ssl_bench.corpora.audio_files import audio_files
from mt4ssl_bench.corpora.prepare_source import prepare_path
from mt4ssl_bench.corpora.source import Options
from mt4ssl_bench.corpora.sources import fsdd, librispeech, speechcommands, voxceleb1
from mt4ssl_bench.downstream.transcribe import named

APPLE = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(4070)
DEBRIS = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", ".Trash-1000", ".ipynb_checkpoints")


def wav(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(len(str(path))).standard_normal(8000), 16_000)
    return path


def litter(folder: Path, name: str) -> None:
    """Put beside `name` what macOS, Windows and network storage do."""
    (folder / f"._{name}").write_bytes(APPLE)
    for system in (".DS_Store", "Thumbs.db", "desktop.ini", "._.DS_Store"):
        (folder / system).write_bytes(b"x" * 100)
    for system in DEBRIS:
        (folder / system).mkdir()
        wav(folder / system / name)
        (folder / system / f"._{name}").write_bytes(APPLE)


def skipped(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "hidden or system" in r.getMessage()]


def test_a_folder_gives_what_people_put_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wav(tmp_path / "src" / "a.wav")
    wav(tmp_path / "src" / "sub" / "b.wav")
    litter(tmp_path / "src", "a.wav")
    with caplog.at_level(logging.INFO):
        corpus = prepare_path("folder", tmp_path / "src", tmp_path / "corpus")
    ids = {cut.id for split in corpus.info.splits for cut in corpus.cuts(split)}
    assert ids == {"a", "sub-b"}
    assert "unreadable" not in corpus.info.notes
    assert skipped(caplog) == [
        f"{tmp_path / 'src'}: skipping 7 hidden or system files and folders, the first: #recycle"
    ]


def test_transcribe_lists_the_same_files_but_takes_one_that_is_named(tmp_path: Path) -> None:
    a = wav(tmp_path / "a.wav")
    litter(tmp_path, "a.wav")
    assert named([tmp_path]) == list(audio_files(tmp_path)) == [a]
    assert named([tmp_path / ".Trash-1000" / "a.wav"]) == [tmp_path / ".Trash-1000" / "a.wav"]


def test_a_hidden_folder_may_be_the_one_that_is_named(tmp_path: Path) -> None:
    a = wav(tmp_path / ".cache" / "a.wav")
    assert list(audio_files(tmp_path / ".cache")) == [a]


def test_speech_commands_has_no_speaker_called_dot(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for word in ("yes", "no"):
        wav(tmp_path / word / "01a_nohash_0.wav")
        litter(tmp_path / word, "01a_nohash_0.wav")
    litter(tmp_path, "01a_nohash_0.wav")
    wav(tmp_path / "_background_noise_" / "hum.wav")
    for name in ("validation", "testing"):
        (tmp_path / f"{name}_list.txt").write_text("\n")
    with caplog.at_level(logging.INFO):
        rows = list(speechcommands.read(tmp_path, speechcommands.SpeechCommands(split="lists")))
    assert [(row.id, row.speaker) for row in rows] == [
        ("no-01a_nohash_0", "01a"),
        ("yes-01a_nohash_0", "01a"),
    ]
    assert len(skipped(caplog)) == 1


def test_other_layouts_skip_them_too(tmp_path: Path) -> None:
    chapter = tmp_path / "ls" / "train-clean-100" / "19" / "198"
    wav(chapter / "19-198-0000.flac")
    (chapter / "19-198.trans.txt").write_text("19-198-0000 A TEXT\n")
    litter(chapter, "19-198.trans.txt.wav")
    (chapter / "._19-198.trans.txt").write_bytes(APPLE)
    rows = librispeech.read(tmp_path / "ls", librispeech.LibriSpeech(valid="", test=""))
    assert [row.id for row in rows] == ["19-198-0000"]
    digits = tmp_path / "fsdd" / "recordings"
    wav(digits / "7_jackson_32.wav")
    litter(digits, "7_jackson_32.wav")
    assert [row.id for row in fsdd.read(tmp_path / "fsdd", Options())] == ["7_jackson_32"]


def test_the_copy_of_a_tree_in_macosx_is_not_the_corpus(tmp_path: Path) -> None:
    for top in ("__MACOSX", "vox"):
        wav(tmp_path / top / "wav" / "id10001" / "v" / "00001.wav")
    listed = tmp_path / "list.txt"
    listed.write_text("1 id10001/v/00001.wav\n")
    assert [
        row.path for row in voxceleb1.read(tmp_path, voxceleb1.VoxCeleb1(split_file=listed))
    ] == [tmp_path / "vox" / "wav" / "id10001" / "v" / "00001.wav"]
