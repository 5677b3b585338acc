"""IEMOCAP: four emotions in acted dialogs, one fold for each of the five sessions."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mt4ssl_bench.corpora.audio_files import made_by_people
from mt4ssl_bench.corpora.layout import numbered_lines, root_of
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.source import Options, Source
from mt4ssl_bench.data.cut import FOLD
from mt4ssl_bench.errors import CorpusError

SESSIONS = range(1, 6)
EMOTIONS = {"neu": "neu", "hap": "hap", "exc": "hap", "ang": "ang", "sad": "sad"}
NAME = r"((Ses\d\d)[FM]_\w+)_([FM])(\w+)"  # dialog, pair, who speaks, number
TURN = re.compile(rf"\[\S+ - \S+\]\t{NAME}\t(\w+)\t\[.*\]")
FILE = re.compile(rf"(Session\d/sentences/wav/[^/]+)/{NAME}\.wav")


@dataclass(frozen=True, kw_only=True)
class Iemocap(Options):
    """Whose order of the turns."""

    folds: Annotated[
        Path | None,
        "s3prl's meta_data: Session1 to Session5 with train_meta_data.json and "
        "test_meta_data.json. Validation parts are then s3prl's too. Default: sorted dialogs.",
    ] = None


def read(given: Path, options: Iemocap) -> Iterator[Row]:
    """Yield the turns with one of SUPERB's emotions, in the order of sessions, dialogs and time.

    The random validation part of a fold depends on this order. s3prl's order is that of its
    maker's disk: without options.folds, test parts are the same and validation parts are not.
    """
    root = root_of(given, "IEMOCAP", "Session1/dialog/EmoEvaluation")
    if options.folds:
        yield from _listed(root, options.folds)
        return
    for session in SESSIONS:
        folder = root / f"Session{session}"
        dialogs = made_by_people((folder / "dialog" / "EmoEvaluation").glob("*.txt"), folder)
        if not dialogs:
            raise CorpusError(
                f"{folder}: no dialog/EmoEvaluation/*.txt; expected them in Session1 to Session5; "
                "is this half an archive?"
            )
        for file in dialogs:
            yield from _turns(file, folder, str(session))


def _turns(file: Path, folder: Path, fold: str) -> Iterator[Row]:
    for number, line in numbered_lines(file):
        if not line.startswith("["):
            continue  # the header, or what one annotator chose
        match = TURN.fullmatch(line)
        if not match:
            raise CorpusError(
                f"{file}, line {number}: '{line[:60]}'; expected '[start - end]', turn, emotion "
                "and [valence, activation, dominance], separated by tabs"
            )
        dialog, pair, letter, place, emotion = match.groups()
        if emotion in EMOTIONS:
            path = folder / "sentences" / "wav" / dialog / f"{dialog}_{letter}{place}.wav"
            # the dialog's own letter is who wears the markers
            yield _turn(path, pair + letter, EMOTIONS[emotion], fold)


def _turn(path: Path, speaker: str, emotion: str, fold: str) -> Row:
    labels = {"emotion": emotion, FOLD: fold}
    return Row(
        id=path.stem, path=path, speaker=speaker, language="en", labels=labels, split="train"
    )


def _listed(root: Path, folder: Path) -> Iterator[Row]:
    """Yield the turns in the order of s3prl's lists, from which it draws the validation parts.

    Raises:
        CorpusError: If a list cannot be read, or a fold's training list is not the test lists of
            the other sessions: one order of all turns could not give its validation part.
    """
    tests = {session: _list(folder / f"Session{session}", "test") for session in SESSIONS}
    for session in SESSIONS:
        others = [turn for other in SESSIONS if other != session for turn in tests[other]]
        if _list(folder / f"Session{session}", "train") != others:
            raise CorpusError(
                f"{folder}: the training list of Session{session} is not the test lists of the "
                "other sessions, one after the other; expected the files of one copy of s3prl"
            )
    for session, turns in tests.items():
        for path, emotion in turns:
            match = FILE.fullmatch(path)
            if not match or emotion not in EMOTIONS.values():
                raise CorpusError(
                    f"{folder}: test list of Session{session}: '{path}', '{emotion}'; expected "
                    "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav and one of "
                    f"{', '.join(dict.fromkeys(EMOTIONS.values()))}"
                )
            yield _turn(root / path, match[3] + match[4], emotion, str(session))


def _list(folder: Path, role: str) -> list[tuple[str, str]]:
    """Return the paths and emotions of a list."""
    file = folder / f"{role}_meta_data.json"
    try:
        turns = json.loads(file.read_text(encoding="utf-8"))["meta_data"]
        return [(str(turn["path"]), str(turn["label"])) for turn in turns]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorpusError(
            f"{file}: cannot be read ({type(error).__name__}: {error}); expected s3prl's "
            "downstream/emotion/meta_data after --folds"
        ) from None


SOURCE = Source(
    name="iemocap",
    about="Acted dialogs of ten speakers; SUPERB's corpus for emotion recognition",
    read=read,
    options=Iemocap,
    help="""Turns with the emotions neu, hap, ang, sad and exc (as hap), of improvised and scripted
    dialogs. The label fold is the session, which the task emotion holds out in turn; all turns are
    one split, train. Test parts are SUPERB's. Validation parts are drawn by s3prl's rule over
    sorted dialogs; s3prl's dialogs have another order, which --folds reads from its files.""",
    examples=(
        "iemocap --from IEMOCAP_full_release --out corpora/iemocap",
        "iemocap --from IEMOCAP_full_release --folds meta_data --out corpora/iemocap",
    ),
    hours="12 h, 7 h of them with these emotions",
    licence="USC SAIL, research only",
    tasks="pretrain, emotion",
    homepage="https://sail.usc.edu/iemocap/",
    citation="Busso et al., IEMOCAP: interactive emotional dyadic motion capture database, "
    "Language Resources and Evaluation 2008",
    obtain="sign its authors' form and name the folder that holds Session1 to Session5",
    texts=False,
    strict=True,
)
