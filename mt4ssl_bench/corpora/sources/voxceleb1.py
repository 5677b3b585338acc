"""VoxCeleb1 with its official identification split."""

import re
from collections.abc import Iterator
from pathlib import Path

from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.sources.common import numbered_lines, root_of
from mt4ssl_bench.errors import CorpusError


def voxceleb1(given: Path, *, split_file: Path | None = None) -> Iterator[Row]:
    """Yield VoxCeleb1 by its official identification split: lines of "1|2|3
    speaker/video/file.wav".
    """
    root = root_of(given, "VoxCeleb1", "wav/id1*", "dev/wav/id1*", "test/wav/id1*", "id1*")
    file = split_file or root / "iden_split.txt"
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
