"""Google's Speech Commands with its own validation and test lists."""

from collections.abc import Iterator
from pathlib import Path

from mt4ssl_bench.corpora.audio_files import made_by_people
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.sources.common import numbered_lines, root_of


def speechcommands(given: Path) -> Iterator[Row]:
    """Yield Speech Commands: word/speaker_nohash_n.wav, split by validation_list.txt and
    testing_list.txt.
    """
    root = root_of(given, "Speech Commands", "testing_list.txt")
    places = {
        name: split
        for split, file in (("valid", "validation_list.txt"), ("test", "testing_list.txt"))
        for _, name in numbered_lines(root / file)
    }
    seen = set()
    for file in made_by_people(root.glob("*/*.wav"), root):
        name = f"{file.parent.name}/{file.name}"
        if not name.startswith("_"):  # _background_noise_
            seen.add(name)
            yield _command(file, places.get(name, "train"))
    for name in sorted(
        places.keys() - seen
    ):  # listed, and not there: for whoever counts what is missing
        yield _command(root / name, places[name])


def _command(file: Path, split: str) -> Row:
    word, speaker = file.parent.name, file.name.partition("_")[0]
    name = f"{word}-{file.stem}"
    return Row(id=name, path=file, speaker=speaker, language="en", text=word.upper(), split=split)
