"""Kaldi's data folders as rows: wav.scp with files; segments, text and utt2spk if they exist.

Commands and archive offsets in wav.scp are refused: a corpus is read without running programs.
"""

import logging
import re
import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from mt4ssl_bench.corpora.rows import Row, one_line
from mt4ssl_bench.corpora.source import SPLITS, Options, Source
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.text import read_number

LOGGER = logging.getLogger(__name__)
# a recording in an archive (data/raw.ark:1234), an archive, or standard input
EXTENDED = re.compile(r":\d+$|\.ark$|^(ark|scp)[,\w]*:|^-$")
PARENTS = 3  # folders above a data folder that relative paths may start from: egs/x/s5/data/train


@dataclass(frozen=True, kw_only=True)
class Kaldi(Options):
    """What the folders do not state."""

    language: Annotated[str, "Language of all texts. English texts get phones from CMUdict."] = "en"


def read(folder: Path, options: Kaldi) -> Iterator[Row]:
    """Yield the utterances of a data folder.

    An utterance is a line of `segments`, or of wav.scp where there are no segments. Its line in
    `text` may hold the id only: then nobody speaks. An utterance without a line there has no text.
    A segment of no duration or of an unknown recording is an unusable row (see Row).

    Raises:
        CorpusError: If the folder is no data folder, or a line cannot be used.
    """
    recordings = read_recordings(folder)
    texts = read_pairs(folder / "text", empty=True)
    speakers = read_pairs(folder / "utt2spk")
    if not speakers:
        LOGGER.warning("%s: no utt2spk, so that its utterances have no speaker", folder)
    segments = read_pairs(folder / "segments")
    if not segments and (folder / "segments").is_file():
        raise CorpusError(f"{folder / 'segments'}: holds no utterance")
    utterances = segments or recordings
    for name, lines in (("text", texts), ("utt2spk", speakers)):
        _report_unknown(folder / name, lines, utterances)
    for utterance in utterances:
        place = segments.get(utterance)
        row = Row(
            id=utterance,
            path=recordings.get(utterance, Path()),
            language=options.language,
            text=one_line(texts.get(utterance)),
            silent=texts.get(utterance) == "",
            speaker=speakers.get(utterance, ""),
        )
        yield row if place is None else _segment(row, place, recordings, folder)


def _segment(row: Row, place: str, recordings: Mapping[str, Path], folder: Path) -> Row:
    """Return the row of a line "utterance recording start end" of `segments`; end -1: all."""
    try:
        recording, begin, end = place.split()
        start, stop = read_number(begin), read_number(end)
    except ValueError:
        raise CorpusError(
            f"{folder / 'segments'}: '{row.id} {place}'; expected utterance recording start end"
        ) from None
    if recording not in recordings:
        details = f"'{recording}' is not in {folder / 'wav.scp'}"
        return replace(row, unusable=("no_recording", details))
    seconds = None if stop == -1 else stop - start
    return replace(row, path=recordings[recording], start=start, seconds=seconds)


def read_recordings(folder: Path) -> dict[str, Path]:
    """Return the files of wav.scp by recording id.

    Raises:
        CorpusError: If there is no wav.scp, or it holds commands instead of files.
    """
    scp = folder / "wav.scp"
    if not scp.is_file():
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else ["a file"]
        got = ", ".join(sorted(names)[:5]) or "nothing"
        below = sorted(place.parent for place in folder.glob("*/wav.scp"))
        advice = f"; name its data folders: {' '.join(f'{p.name}={p}' for p in below)}"
        raise CorpusError(
            f"{folder}: expected a Kaldi data folder with wav.scp in it, got {got}"
            f"{advice if below else ''}"
        )
    lines = read_pairs(scp)
    for recording, path in lines.items():
        if "|" in {path[0], path[-1]}:
            raise CorpusError(
                f"{scp}: '{recording}' is the output of a command ('{path[:60]}'), which is not "
                f"run; expected a file; {_commands(folder)}"
            )
        if EXTENDED.search(path):
            raise CorpusError(
                f"{scp}: '{recording}' is '{path[:60]}', an extended filename; expected a file; "
                "write a file for each recording, for example with ESPnet's "
                "scripts/audio/format_wav_scp.sh"
            )
    base = _base(folder, next((path for path in lines.values() if path[0] != "/"), ""))
    return {recording: base / path for recording, path in lines.items()}


def _commands(folder: Path) -> str:
    """Return the two commands that write the output of wav.scp's commands to files."""
    quoted = shlex.quote(str(folder.resolve()))
    write = (
        f"mkdir -p {quoted}/wav && cp {quoted}/wav.scp {quoted}/wav.scp.old && "
        'while read -r id rest; do case $rest in *\\|) sh -c "${rest%|}" < /dev/null ;; '
        f'*) cat "$rest" ;; esac > {quoted}/wav/$id.wav; done < {quoted}/wav.scp.old'
    )
    program = """'{print $1, d "/wav/" $1 ".wav"}'"""
    name = f"awk -v d={quoted} {program} {quoted}/wav.scp.old > {quoted}/wav.scp"
    return f"run, where its paths start from: {write} ; then: {name}"


def _base(folder: Path, path: str) -> Path:
    """Return the folder that relative paths start from: where the first one names a file.

    Kaldi runs in a recipe's folder (egs/x/s5), two levels above its data folders.
    """
    folder = folder.resolve()
    places = [Path.cwd(), folder, *folder.parents[:PARENTS]]
    return next((place for place in places if (place / path).is_file()), places[0])


def read_pairs(file: Path, *, empty: bool = False) -> dict[str, str]:
    """Return the lines of a file by their first word; nothing if there is no file.

    Args:
        file: Lines of an id and its value, which may contain spaces.
        empty: Whether a line may hold the id only.
    """
    if not file.is_file():
        return {}
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{file}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    values: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        key, *rest = line.split(maxsplit=1) or [""]
        if not key:
            continue
        if not rest and not empty:
            raise CorpusError(
                f"{file}, line {number}: '{key}' has no value; expected an id and one"
            )
        if key in values:
            raise CorpusError(f"{file}, line {number}: duplicate id '{key}'; expected unique ids")
        values[key] = " ".join(rest).strip()
    return values


def _report_unknown(file: Path, lines: Mapping[str, str], known: Collection[str]) -> None:
    """Log how many lines belong to no utterance."""
    unknown = [name for name in lines if name not in known]
    if unknown:
        LOGGER.warning(
            "%s: %d of %d lines belong to no utterance; the first is '%s'",
            file,
            len(unknown),
            len(lines),
            unknown[0],
        )


SOURCE = Source(
    name="kaldi",
    about="Kaldi's data folders: wav.scp with files, segments, text, utt2spk",
    read=read,
    options=Kaldi,
    takes=replace(
        SPLITS, help="For example train=data/train test=data/test, or one folder without splits."
    ),
    help="""segments, text and utt2spk are read if they exist. A line of 'text' with the id only is
    an utterance in which nobody speaks.

    wav.scp must name files. Commands in it (lines with |) are not run; the error shows how to write
    their output to files.""",
    examples=("kaldi train=data/train valid=data/dev test=data/test --out corpora/mine",),
    tasks="as its files allow",
)
