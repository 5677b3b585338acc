"""VoxCeleb1 with its official identification split."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mt4ssl_bench.corpora.layout import numbered_lines, root_of
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.source import Options, Source
from mt4ssl_bench.errors import CorpusError


@dataclass(frozen=True, kw_only=True)
class VoxCeleb1(Options):
    """Where the split is."""

    split_file: Annotated[
        Path | None, "Official split, iden_split.txt. Default: the file beside wav/."
    ] = None


def read(given: Path, options: VoxCeleb1) -> Iterator[Row]:
    """Yield the lines "1|2|3 speaker/video/file.wav" of the official identification split."""
    root = root_of(given, "VoxCeleb1", "wav/id1*", "dev/wav/id1*", "test/wav/id1*", "id1*")
    file = options.split_file or root / "iden_split.txt"
    if not file.is_file():
        raise CorpusError(
            f"{file}: no identification split; get iden_split.txt from VoxCeleb's page and name it "
            "by --split-file"
        )
    bases = [base for name in ("wav", "dev/wav", "test/wav", ".") if (base := root / name).is_dir()]
    for number, line in numbered_lines(file):
        match = re.fullmatch(r"([123]) (id\d+)/(\S+)/(\d+)\.wav", line)
        if not match:
            raise CorpusError(
                f"{file}, line {number}: '{line[:60]}'; expected '1 id10001/video/00001.wav'"
            )
        place, speaker, video, clip = match.groups()
        relative = f"{speaker}/{video}/{clip}.wav"
        path = next(
            (base / relative for base in bases if (base / relative).is_file()), bases[0] / relative
        )
        split = ("train", "valid", "test")[int(place) - 1]
        yield Row(id=f"{speaker}-{video}-{clip}", path=path, speaker=speaker, split=split)


SOURCE = Source(
    name="voxceleb1",
    about="Interviews of 1,251 celebrities; SUPERB's corpus for speaker identification",
    read=read,
    options=VoxCeleb1,
    help="The splits are those of the official identification split (iden_split.txt).",
    examples=("voxceleb1 --from VoxCeleb1 --out corpora/voxceleb1",),
    hours="352 h",
    licence="CC BY-SA 4.0 (metadata); the audio is YouTube's users'",
    tasks="pretrain, speaker",
    homepage="https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox1.html",
    citation="Nagrani et al., VoxCeleb: a large-scale speaker identification dataset, "
    "Interspeech 2017",
    obtain="ask its authors for the audio, unpack both archives into one folder and put "
    "iden_split.txt beside wav/",
    texts=False,
)
