"""VoxCeleb1 with its official identification split, and its trials of verification."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from mt4ssl_bench.corpora.layout import numbered_lines, root_of
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.source import Options, Source
from mt4ssl_bench.data.draw import draw
from mt4ssl_bench.data.lists import Lists
from mt4ssl_bench.errors import CorpusError

TRIALS = "voxceleb1_test_v2.txt"
HELD_OUT = 40  # training speakers for validation, as many as are tested; a tenth of few


@dataclass(frozen=True, kw_only=True)
class VoxCeleb1(Options):
    """Where split and trials are."""

    split_file: Annotated[
        Path | None, "Official split, iden_split.txt. Default: the file beside wav/."
    ] = None
    trials: Annotated[
        Path | None, f"Trials of verification. Default: {TRIALS} beside wav/, if it is there."
    ] = None


def read(given: Path, options: VoxCeleb1) -> Iterator[Row]:
    """Yield the lines "1|2|3 speaker/video/file.wav" of the official identification split.

    With trials it becomes the splits of its own for identification (sid_), and `split` is
    verification's: the speakers of trials are tested, HELD_OUT of the others are for validation.
    """
    root = _root(given)
    file = options.split_file or root / "iden_split.txt"
    if not file.is_file():
        raise CorpusError(
            f"{file}: no identification split; get iden_split.txt from VoxCeleb's page and name it "
            "by --split-file"
        )
    bases = [base for name in ("wav", "dev/wav", "test/wav", ".") if (base := root / name).is_dir()]
    rows = []
    for number, line in numbered_lines(file):
        match = re.fullmatch(r"([123]) ((id\d+)/\S+/\d+\.wav)", line)
        if not match:
            raise CorpusError(
                f"{file}, line {number}: '{line[:60]}'; expected '1 id10001/video/00001.wav'"
            )
        place, relative, speaker = match.groups()
        path = next(
            (base / relative for base in bases if (base / relative).is_file()), bases[0] / relative
        )
        split = ("train", "valid", "test")[int(place) - 1]
        rows.append(Row(id=_id(relative), path=path, speaker=speaker, split=split))
    trials = lists(given, options).get("trials", ())
    tested = {row[side].partition("-")[0] for row in trials for side in ("enrol_id", "test_id")}
    return _by_speaker(rows, tested) if tested else iter(rows)


def _by_speaker(rows: Sequence[Row], tested: Collection[str]) -> Iterator[Row]:
    others = sorted({row.speaker for row in rows}.difference(tested), key=draw)
    held_out = set(others[: min(HELD_OUT, max(len(others) // 10, 1))])
    for row in rows:
        split = "test" if row.speaker in tested else "valid" if row.speaker in held_out else "train"
        yield replace(row, split=split, sid_split=row.split)


def lists(given: Path, options: VoxCeleb1) -> Lists:
    """Return the trials "1|0 speaker/video/file.wav speaker/video/file.wav", if there are any."""
    file = options.trials or _root(given) / TRIALS
    if not options.trials and not file.is_file():
        return {}
    rows = []
    for number, line in numbered_lines(file):
        match = re.fullmatch(r"([01]) (id\d+/\S+/\d+\.wav) (id\d+/\S+/\d+\.wav)", line)
        if not match:
            raise CorpusError(
                f"{file}, line {number}: '{line[:60]}'; expected '1 id10270/video/00001.wav "
                "id10270/video/00002.wav', as in VoxCeleb1's trial list"
            )
        label, *pair = match.groups()
        rows.append(
            dict(zip(("label", "enrol_id", "test_id"), (label, *map(_id, pair)), strict=True))
        )
    return {"trials": rows}


def _root(given: Path) -> Path:
    return root_of(given, "VoxCeleb1", "wav/id1*", "dev/wav/id1*", "test/wav/id1*", "id1*")


def _id(relative: str) -> str:
    return relative.removesuffix(".wav").replace("/", "-")


SOURCE = Source(
    name="voxceleb1",
    about="Interviews of 1,251 celebrities; SUPERB's corpus for SID and ASV",
    read=read,
    options=VoxCeleb1,
    help="The splits are those of the official identification split (iden_split.txt). If there are "
    "trials, it is kept as sid_train, sid_valid and sid_test; test then holds the 40 speakers of "
    "the trials, valid 40 of the other speakers, and train the rest.",
    lists=lists,
    examples=("voxceleb1 --from VoxCeleb1 --out corpora/voxceleb1",),
    hours="352 h",
    licence="CC BY-SA 4.0 (metadata); the audio is YouTube's users'",
    tasks="pretrain, speaker, verification",
    homepage="https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox1.html",
    citation="Nagrani et al., VoxCeleb: a large-scale speaker identification dataset, "
    "Interspeech 2017",
    obtain="ask its authors for the audio, unpack both archives into one folder and put "
    "iden_split.txt (and voxceleb1_test_v2.txt for verification) beside wav/",
    texts=False,
)
