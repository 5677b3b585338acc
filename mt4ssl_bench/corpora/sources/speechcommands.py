"""Google's Speech Commands: SUPERB's keyword spotting (version 0.01), or its own split lists."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from mt4ssl_bench.corpora.audio_files import made_by_people
from mt4ssl_bench.corpora.download import Archive
from mt4ssl_bench.corpora.layout import numbered_lines, root_of
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.source import Options, Source
from mt4ssl_bench.data import audio_headers
from mt4ssl_bench.data.draw import draw
from mt4ssl_bench.errors import ConfigError, CorpusError

NOISE, UNKNOWN, SILENCE = "_background_noise_", "_unknown_", "_silence_"
BUCKETS = 2**27 - 1  # of the hash, as in Google's and s3prl's code
MS = 1000  # in a second


@dataclass(frozen=True, kw_only=True)
class SpeechCommands(Options):
    """Which split, and what it needs."""

    split: Annotated[
        Literal["superb", "lists"],
        "superb: keyword spotting on version 0.01 with its test archive. lists: all words with "
        "their texts, by validation_list.txt and testing_list.txt, without noise.",
    ] = "superb"
    test: Annotated[
        Path | None, "Folder of the test archive. Default: the one below the folder of --from."
    ] = None
    noise_crops: Annotated[
        int, "Crops of 1 s of each noise file for train, and as many for valid."
    ] = 300

    def __post_init__(self) -> None:
        """Check the number of crops."""
        if self.noise_crops < 1:
            raise ConfigError(f"--noise-crops {self.noise_crops}: expected 1 or more")

    def parts(self) -> Sequence[str]:
        """See Options.parts."""
        return ["v0.01", "test-v0.01"] if self.split == "superb" else ["v0.02"]


def read(given: Path, options: SpeechCommands) -> Iterator[Row]:
    """Yield the rows of the chosen split."""
    return _superb(given, options) if options.split == "superb" else _by_lists(given)


def part_of(name: str) -> str:
    """Return the split of a file of the train archive by the hash of its speaker; "" for none.

    The rule is s3prl's (downstream/speech_commands/expert.py), which is Google's: a tenth of the
    speakers is valid. A tenth is Google's test, which SUPERB leaves out.
    """
    speaker = re.sub(r"_nohash_.*$", "", name)
    number = int(hashlib.sha1(speaker.encode(), usedforsecurity=False).hexdigest(), 16)
    percentage = (number % (BUCKETS + 1)) * (100.0 / BUCKETS)
    return "valid" if percentage < 10 else "" if percentage < 20 else "train"


def _superb(given: Path, options: SpeechCommands) -> Iterator[Row]:
    """Yield SUPERB's rows with the label keyword.

    Classes are the folders of the test archive; other words of the train archive are _unknown_.
    """
    train = root_of(given, "Speech Commands (version 0.01)", f"{NOISE}/*")
    wanted = "the test archive of Speech Commands, which --test names (--split lists needs none)"
    test = root_of(options.test or given, wanted, f"{UNKNOWN}/*")
    tested = _recordings(test)
    classes = {file.parent.name for file in tested}
    words = [file for file in _recordings(train) if file.parent.name != NOISE]
    if lacking := sorted(classes - {UNKNOWN, SILENCE} - {file.parent.name for file in words}):
        raise CorpusError(
            f"{train}: no recording of {', '.join(lacking)}, which {test} has; expected a folder "
            "for each of its words; is this half an archive?"
        )
    for file in words:
        if split := part_of(file.name):
            word = file.parent.name
            yield _row(f"{word}-{file.stem}", file, word if word in classes else UNKNOWN, split)
    yield from _noises(train / NOISE, options.noise_crops)
    for file in tested:
        word = file.parent.name
        yield _row(f"test-{word}-{file.stem}", file, word, "test")


def _noises(folder: Path, crops: int) -> Iterator[Row]:
    """Yield crops of 1 s at seeded random places of each noise file, half of them for valid.

    s3prl crops anew each time that it reads a noise, the same noises in train and valid. Here no
    two crops are the same: they begin at different milliseconds.
    """
    for file in made_by_people(folder.glob("*"), folder):
        if file.suffix.lower() not in audio_headers.SUFFIXES:
            continue  # README.md
        samples, rate, _ = audio_headers.probe(file)  # the only length that no list states
        room = (samples - rate) * MS // rate
        if room < 2:
            raise CorpusError(f"{file}: {samples / rate:.2f} s; expected a noise longer than 1 s")
        places = np.random.default_rng(draw(file.stem)).permutation(room)[: 2 * crops].tolist()
        for split, starts in (("train", places[::2]), ("valid", places[1::2])):
            for number, start in enumerate(starts):
                name = f"{SILENCE}-{split}-{file.stem}-{number:03}"
                yield replace(_row(name, file, SILENCE, split), start=start / MS, seconds=1.0)


def _row(name: str, file: Path, keyword: str, split: str) -> Row:
    speaker = re.search(r"([^_]+)_nohash_", file.name)
    labels = {"keyword": keyword}
    name_of = speaker[1] if speaker else ""
    return Row(id=name, path=file, speaker=name_of, language="en", labels=labels, split=split)


def _recordings(root: Path) -> list[Path]:
    files = made_by_people(root.glob("*/*"), root)
    return [file for file in files if file.suffix.lower() in audio_headers.SUFFIXES]


def _by_lists(given: Path) -> Iterator[Row]:
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
    about="Single English words by thousands of speakers; SUPERB's corpus for keyword spotting",
    read=read,
    options=SpeechCommands,
    help="""The default is SUPERB's keyword spotting: version 0.01, whose train archive is split by
    a hash of the speaker (the tenth that would be Google's test is left out), and the separate test
    archive as test. Both are in the folder of --from; the classes are the folders of the test
    archive. Noises are cut into crops of 1 s at seeded random places. Corpora of earlier versions
    have --split lists, which serves asr and phoneme, and cannot be used for keyword.""",
    examples=(
        "speechcommands --download --out corpora/speechcommands",
        "speechcommands --split lists --from speech_commands_v0.02 --out corpora/words",
    ),
    hours="18 h (version 0.01), 30 h (0.02)",
    licence="CC BY 4.0",
    tasks="pretrain, keyword; with --split lists asr, phoneme",
    homepage="https://arxiv.org/abs/1804.03209",
    citation="Warden, Speech Commands: a dataset for limited-vocabulary speech recognition, 2018",
    strict=True,  # a noise has no speaker, which is no gap
    archives={  # checksums are torchaudio's (speechcommands.py), which has none of the test archive
        "v0.01": Archive(
            "http://download.tensorflow.org/data/speech_commands_v0.01.tar.gz",
            "sha256:743935421bb51cccdb6bdd152e04c5c70274e935c82119ad7faeec31780d811d",
            folder="speech_commands_v0.01",
        ),
        "test-v0.01": Archive(
            "http://download.tensorflow.org/data/speech_commands_test_set_v0.01.tar.gz",
            folder="speech_commands_test_set_v0.01",
        ),
        "v0.02": Archive(
            "http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
            "sha256:af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
        ),
    },
)
