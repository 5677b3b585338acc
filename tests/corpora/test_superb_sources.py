"""Sources of SUPERB's tasks, in miniature trees of their own layouts."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from builders import write_noise
from mt4ssl_bench.corpora.prepare_source import Request, prepare_source
from mt4ssl_bench.corpora.source import SOURCES
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import Cut, labels_of, speaker_of, text_of
from mt4ssl_bench.downstream.plan import plan
from mt4ssl_bench.errors import CorpusError


def prepared(name: str, root: Path, out: Path, **options: Any) -> Corpus:
    source = SOURCES.get(name)
    request = Request(roots={"": root})
    made = prepare_source(source, source.options(audio=out / "audio", **options), out, request)
    return made.corpus


def cuts_of(corpus: Corpus, split: str) -> Mapping[str, Cut]:
    return {cut.id: cut for cut in corpus.cuts(split)}


# ---- Fluent Speech Commands ----

HEADER = ",path,speakerId,transcription,action,object,location"
COMMANDS = (
    ("Change language", "change language", "none", "none"),
    ("Turn on the lights in the kitchen", "activate", "lights", "kitchen"),
    ('Resume, "please"', "activate", "music", "none"),
)


def fluent(root: Path) -> Path:
    """Write three commands a split, as the archive has them: a CSV index, quotes, folders."""
    (root / "data").mkdir(parents=True)
    for split in ("train", "valid", "test"):
        lines = [HEADER]
        for number, (text, *labels) in enumerate(COMMANDS):
            path = f"wavs/speakers/{split}7/{split}-0c5a-{number}.wav"
            write_noise(root / path)
            cell = '"' + text.replace('"', '""') + '"' if "," in text else text
            lines.append(",".join([str(number), path, f"{split}7", cell, *labels]))
        (root / "data" / f"{split}_data.csv").write_text("\r\n".join(lines) + "\r\n")
    return root


def test_fluent_takes_splits_and_labels_from_its_tables_and_none_is_a_value(tmp_path: Path) -> None:
    corpus = prepared("fluent", fluent(tmp_path / "in" / "fluent_speech"), tmp_path / "out")
    sizes = {name: split.utterances for name, split in corpus.info.splits.items()}
    assert {name: sizes[name] for name in ("train", "valid", "test")} == dict.fromkeys(
        ("train", "valid", "test"), 3
    )
    assert {"action", "object", "location", "speaker", "text"} <= set(corpus.info.fields)
    first, _, third = (cuts_of(corpus, "valid")[f"valid-0c5a-{n}"] for n in range(3))
    assert labels_of(first) == {"action": "change language", "object": "none", "location": "none"}
    assert (text_of(third), speaker_of(third)) == ('Resume, "please"', "valid7")
    job = plan("IC", corpus)
    (fold,) = job.folds()
    assert fold.task.state() == {
        "actions": ["activate", "change language"],
        "objects": ["lights", "music", "none"],
        "locations": ["kitchen", "none"],
    }
    assert fold.task.outputs == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(",location", ",place", 1), "no column location; expected the"),
        (lambda text: text.replace(",none,none", ",none,", 1), r", line 2: no location; expected "),
        (lambda text: text.replace("speakers/valid7", "speakers/x"), "3 of its 9 audio files are"),
    ],
)
def test_fluent_names_what_is_not_as_published(
    tmp_path: Path, change: object, message: str
) -> None:
    file = fluent(tmp_path / "in") / "data" / "valid_data.csv"
    assert callable(change)
    file.write_text(change(file.read_text()))
    with pytest.raises(CorpusError, match=message):
        prepared("fluent", tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out" / "corpus.json").exists()


def test_half_of_fluent_and_another_folder_are_named(tmp_path: Path) -> None:
    root = fluent(tmp_path / "in")
    (root / "data" / "test_data.csv").unlink()
    with pytest.raises(CorpusError, match=r"test_data\.csv: missing; is this half an archive\?"):
        prepared("fluent", root, tmp_path / "out")
    (tmp_path / "other" / "clips").mkdir(parents=True)
    for name, expected in (
        ("fluent", "not Fluent Speech Commands; expected data/train_data.csv in it, got clips"),
        ("iemocap", "not IEMOCAP; expected Session1/dialog/EmoEvaluation in it, got clips"),
    ):
        with pytest.raises(CorpusError, match=re.escape(expected)):
            prepared(name, tmp_path / "other", tmp_path / "out")


# ---- IEMOCAP ----

TURNS = (  # of a dialog: letter of the speaker, emotion of the majority
    ("F000", "neu"),
    ("M000", "exc"),
    ("F001", "xxx"),
    ("M001", "fru"),
    ("M002", "ang"),
    ("F002", "sad"),
    ("F003", "hap"),
)
DIALOGS = ("F_impro01", "M_script01_1b")


def iemocap(root: Path) -> Path:
    """Write two dialogs of each session, with what one annotator chose and a Mac's own files."""
    for session in range(1, 6):
        folder = root / f"Session{session}"
        evaluation = folder / "dialog" / "EmoEvaluation"
        (evaluation / "Categorical").mkdir(parents=True)
        (evaluation / "Categorical" / "Ses01F_impro01_e2_cat.txt").write_text("another table")
        for dialog in (f"Ses0{session}{name}" for name in DIALOGS):
            lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
            for number, (turn, emotion) in enumerate(TURNS):
                times = f"[{number}.2901 - {number}.8357]"
                lines += [f"{times}\t{dialog}_{turn}\t{emotion}\t[2.5000, 2.5000, 2.5000]"]
                lines += ["C-E2:\tNeutral;\t()", "A-E3:\tval 3; act 2; dom  2;\t()", ""]
                write_noise(folder / "sentences" / "wav" / dialog / f"{dialog}_{turn}.wav")
            (evaluation / f"{dialog}.txt").write_text("\n".join(lines) + "\n")
            (evaluation / f"._{dialog}.txt").write_bytes(b"\x00\x05\x16\x07")
    return root


def test_iemocap_has_four_emotions_and_a_fold_for_each_session(tmp_path: Path) -> None:
    corpus = prepared("iemocap", iemocap(tmp_path / "in" / "IEMOCAP_full_release"), tmp_path / "o")
    assert list(corpus.info.splits) == ["train"]
    cuts = cuts_of(corpus, "train")
    assert len(cuts) == 5 * 2 * 5
    first = list(cuts)[:5]
    assert first == [f"Ses01F_impro01_{turn}" for turn in ("F000", "M000", "M002", "F002", "F003")]
    emotions = [labels_of(cuts[name])["emotion"] for name in first]
    assert emotions == ["neu", "hap", "ang", "sad", "hap"], "excitement is happiness"
    assert len({speaker_of(cut) for cut in cuts.values()}) == 10
    assert speaker_of(cuts["Ses04M_script01_1b_F002"]) == "Ses04F", "not who wears the markers"
    folds = plan("er", corpus).folds()
    assert [fold.name for fold in folds] == ["1", "2", "3", "4", "5"]
    for fold in folds:
        assert {cut.id[:5] for cut in fold.cuts["test"]} == {f"Ses0{fold.name}"}
        sizes = [len(fold.cuts[role]) for role in ("train", "valid", "test")]
        assert sizes == [32, 8, 10]
        assert fold.task.outputs == 4


def test_iemocap_with_a_session_or_a_line_that_is_not_as_published_is_named(tmp_path: Path) -> None:
    root = iemocap(tmp_path / "in")
    file = root / "Session2" / "dialog" / "EmoEvaluation" / "Ses02F_impro01.txt"
    text = file.read_text()
    file.write_text(text.replace("\tneu\t", " neu "))
    with pytest.raises(
        CorpusError, match=r"Ses02F_impro01\.txt, line 3: '\[0\.2901 - .*; expected"
    ):
        prepared("iemocap", root, tmp_path / "out")
    file.write_text(text)
    (root / "Session5").rename(root / "session5")
    with pytest.raises(
        CorpusError, match=r"Session5: no dialog/EmoEvaluation/\*\.txt; expected them in Session1"
    ):
        prepared("iemocap", root, tmp_path / "out")


def meta_data(root: Path, folder: Path) -> dict[int, list[str]]:
    """Write s3prl's lists in the order of another disk; return each fold's training ids in order."""
    emotions = {turn: "hap" if emotion == "exc" else emotion for turn, emotion in TURNS}
    tests: dict[int, list[dict[str, str]]] = {}
    for session in range(1, 6):
        dialogs = sorted(
            (root / f"Session{session}" / "sentences" / "wav").iterdir(), reverse=session % 2 == 0
        )
        tests[session] = [
            {"path": str(file.relative_to(root)), "label": emotions[file.stem[-4:]], "speaker": "?"}
            for dialog in dialogs
            for file in sorted(dialog.iterdir(), reverse=True)
            if emotions[file.stem[-4:]] in {"neu", "hap", "ang", "sad"}
        ]
    trains = {}
    for session, test in tests.items():
        train = [turn for other in tests if other != session for turn in tests[other]]
        place = folder / f"Session{session}"
        place.mkdir(parents=True)
        labels = {"neu": 0, "hap": 1, "ang": 2, "sad": 3}
        for role, turns in (("train", train), ("test", test)):
            content = {"labels": labels, "meta_data": turns}
            (place / f"{role}_meta_data.json").write_text(json.dumps(content))
        trains[session] = [Path(turn["path"]).stem for turn in train]
    return trains


def test_iemocap_with_the_lists_of_s3prl_has_its_validation_parts(tmp_path: Path) -> None:
    root = iemocap(tmp_path / "in")
    trains = meta_data(root, tmp_path / "meta_data")
    plain = prepared("iemocap", root, tmp_path / "plain")
    corpus = prepared("iemocap", root, tmp_path / "out", folds=tmp_path / "meta_data")
    assert cuts_of(corpus, "train").keys() == cuts_of(plain, "train").keys()
    assert {k: speaker_of(c) for k, c in cuts_of(corpus, "train").items()} == {
        k: speaker_of(c) for k, c in cuts_of(plain, "train").items()
    }
    for fold, other in zip(plan("er", corpus).folds(), plan("er", plain).folds(), strict=True):
        names = trains[int(fold.name)]
        torch.manual_seed(0)  # as s3prl (downstream/emotion/expert.py)
        count = int((1 - 0.2) * len(names))
        parts = torch.utils.data.random_split(names, [count, len(names) - count])  # type: ignore[arg-type]
        for role, part in zip(("train", "valid"), parts, strict=True):
            assert [cut.id for cut in fold.cuts[role]] == list(part)
        valid = {cut.id for cut in fold.cuts["valid"]}
        assert valid != {cut.id for cut in other.cuts["valid"]}, "sorted dialogs give another"
        assert {c.id for c in fold.cuts["test"]} == {c.id for c in other.cuts["test"]}


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("Session3/train", lambda text: text[:50], "Session3/train_meta_data.json: cannot be read"),
        ("Session3/train", None, "cannot be read (FileNotFoundError: "),
        ("Session2/test", lambda text: text.replace("F000", "F009", 1), "the training list of Ses"),
        ("*/*", lambda text: text.replace('"neu", "s', '"xxx", "s'), "'xxx'; expected Session1/se"),
    ],
)
def test_lists_that_are_not_s3prls_are_named(
    tmp_path: Path, file: str, change: Any, message: str
) -> None:
    root = iemocap(tmp_path / "in")
    meta_data(root, tmp_path / "meta_data")
    for path in (tmp_path / "meta_data").glob(f"{file}_meta_data.json"):
        path.write_text(change(path.read_text())) if change else path.unlink()
    with pytest.raises(CorpusError, match=re.escape(message)):
        prepared("iemocap", root, tmp_path / "out", folds=tmp_path / "meta_data")
