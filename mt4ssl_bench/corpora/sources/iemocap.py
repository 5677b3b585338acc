"""IEMOCAP: four emotions in acted dialogs, one fold for each of the five sessions."""

import re
from collections.abc import Iterator
from pathlib import Path

from mt4ssl_bench.corpora.audio_files import made_by_people
from mt4ssl_bench.corpora.layout import numbered_lines, root_of
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.source import Options, Source
from mt4ssl_bench.errors import CorpusError

SESSIONS = range(1, 6)
EMOTIONS = {"neu": "neu", "hap": "hap", "exc": "hap", "ang": "ang", "sad": "sad"}
TURN = re.compile(r"\[\S+ - \S+\]\t((Ses\d\d)[FM]_\w+)_([FM])(\w+)\t(\w+)\t\[.*\]")


def read(given: Path, _: Options) -> Iterator[Row]:
    """Yield the turns with one of SUPERB's emotions, in the order of sessions, dialogs and time.

    The random validation part of a fold depends on this order. s3prl's order is that of its
    maker's disk, so test parts are the same and validation parts are not.
    """
    root = root_of(given, "IEMOCAP", "Session1/dialog/EmoEvaluation")
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
            name = f"{dialog}_{letter}{place}"
            yield Row(
                id=name,
                path=folder / "sentences" / "wav" / dialog / f"{name}.wav",
                speaker=pair + letter,  # the dialog's own letter is who wears the markers
                language="en",
                labels={"emotion": EMOTIONS[emotion], "fold": fold},
                split="train",
            )


SOURCE = Source(
    name="iemocap",
    about="Acted dialogs of ten speakers; SUPERB's corpus for emotion recognition",
    read=read,
    options=Options,
    help="""Turns with the emotions neu, hap, ang, sad and exc (as hap), of improvised and scripted
    dialogs. The label fold is the session, which the task emotion holds out in turn; all turns are
    one split, train. Test parts are SUPERB's. Validation parts are drawn by s3prl's rule over
    sorted dialogs, and s3prl's dialogs are not sorted.""",
    examples=("iemocap --from IEMOCAP_full_release --out corpora/iemocap",),
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
