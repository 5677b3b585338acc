"""Google's Speech Commands with its own validation and test lists."""

from collections.abc import Iterator
from pathlib import Path

from mt4ssl_bench.corpora.audio_files import made_by_people
from mt4ssl_bench.corpora.download import Archive
from mt4ssl_bench.corpora.layout import numbered_lines, root_of
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.source import Options, Source


def read(given: Path, _: Options) -> Iterator[Row]:
    """Yield <word>/<speaker>_nohash_<n>.wav, split by validation_list.txt and testing_list.txt.

    A file that is only listed is yielded, so that it is counted as missing.
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
    for name in sorted(places.keys() - seen):
        yield _command(root / name, places[name])


def _command(file: Path, split: str) -> Row:
    word, speaker = file.parent.name, file.name.partition("_")[0]
    name = f"{word}-{file.stem}"
    return Row(id=name, path=file, speaker=speaker, language="en", text=word.upper(), split=split)


SOURCE = Source(
    name="speechcommands",
    about="Single English words by thousands of speakers (version 0.02)",
    read=read,
    options=Options,
    help="Its own validation and testing lists are valid and test.",
    examples=("speechcommands --download --out corpora/speechcommands",),
    hours="30 h",
    licence="CC BY 4.0",
    tasks="pretrain, asr, phoneme",
    homepage="https://arxiv.org/abs/1804.03209",
    citation="Warden, Speech Commands: a dataset for limited-vocabulary speech recognition, 2018",
    archives={
        "v0.02": Archive(  # the checksum is torchaudio's (speechcommands.py)
            "http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
            "sha256:af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
        )
    },
)
