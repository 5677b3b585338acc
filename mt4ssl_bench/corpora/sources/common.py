"""Published corpora in the layouts that their archives unpack to: each reader yields rows and opens no audio.

Lhotse's recipes read some of these too, but drop an utterance whose file is missing with a line in the log; here every
utterance that a corpus states is yielded, so that what is missing is counted by whoever opens the files.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mt4ssl_bench.corpora.audio_files import audio_files, is_system, made_by_people
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.registry import hint

LOGGER = logging.getLogger(__name__)

LIBRISPEECH_PARTS = {  # and the utterances that their archives hold
    "train-clean-100": 28_539,
    "train-clean-360": 104_014,
    "train-other-500": 148_688,
    "dev-clean": 2_703,
    "dev-other": 2_864,
    "test-clean": 2_620,
    "test-other": 2_939,
}


def _root(given: Path, corpus: str, *wanted: str) -> Path:
    """Return `given`, or the folder up to two levels inside it, that holds something matching one of `wanted`."""
    if not given.is_dir():
        raise CorpusError(
            f"{given}: no such folder; --from names {corpus}'s, --download fetches it where that is free"
        )
    for depth in (".", "*", "*/*"):
        for root in sorted(given.glob(depth)) if depth != "." else [given]:
            if any(map(is_system, root.relative_to(given).parts)):
                continue
            if root.is_dir() and any(any(root.glob(pattern)) for pattern in wanted):
                return root
    found = sorted(path.name for path in given.iterdir())[:5]
    raise CorpusError(
        f"{given}: not {corpus}: expected {' or '.join(wanted)} in it, "
        f"found {', '.join(found) if found else 'an empty folder'}"
    )


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield a text file's lines that are not empty, with their numbers."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise CorpusError(f"{file}: missing; is this half an archive?") from None
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{file}: not UTF-8 (byte {error.start}); not as its authors published it"
        ) from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.strip()


def _pairs(file: Path) -> Iterator[tuple[str, str]]:
    """Yield (first word, rest) of each line."""
    for number, line in _lines(file):
        key, *rest = line.split(maxsplit=1)
        if not rest:
            raise CorpusError(
                f"{file}, line {number}: '{key}' stands alone; is this half an archive?"
            )
        yield key, rest[0]


def librispeech(
    given: Path, *, train: Sequence[str], valid: Sequence[str], test: Sequence[str]
) -> Iterator[Row]:
    """Yield LibriSpeech: the parts named for train, valid and test, and any other part under its own name."""
    root = _root(given, "LibriSpeech", "*-*/*/*/*.trans.txt")
    present = [name for name in LIBRISPEECH_PARTS if (root / name).is_dir()]
    for part in train:
        if part not in present:
            raise CorpusError(
                f"{root}: no {part} in it; it holds {', '.join(present)}; --train names parts"
            )
    for part in (*valid, *test):
        if part not in LIBRISPEECH_PARTS:
            raise CorpusError(f"LibriSpeech has no part '{part}'; {hint(part, LIBRISPEECH_PARTS)}")
        if part not in present:
            LOGGER.warning("%s: no %s in it", root, part)
    roles = (
        dict.fromkeys(train, "train") | dict.fromkeys(valid, "valid") | dict.fromkeys(test, "test")
    )
    others = [
        name for name in present if name.startswith(("dev-", "test-"))
    ]  # other training parts stay outside
    for part in [*roles, *(name for name in others if name not in roles)]:
        if part not in present:
            continue
        count = 0
        for count, row in enumerate(_chapters(root / part, "*/*", roles.get(part, part)), start=1):  # noqa: B007
            yield row
        if count < LIBRISPEECH_PARTS.get(part, 0):
            LOGGER.warning(
                "%s: %d of its %d utterances", root / part, count, LIBRISPEECH_PARTS[part]
            )


def _chapters(folder: Path, pattern: str, split: str) -> Iterator[Row]:
    """Yield the utterances of speaker/chapter folders that match `pattern`, each with its *.trans.txt."""
    for transcript in made_by_people(folder.glob(f"{pattern}/*.trans.txt"), folder):
        chapter = transcript.parent
        for name, text in _pairs(transcript):
            yield Row(
                id=name,
                path=chapter / f"{name}.flac",
                speaker=chapter.parent.name,
                language="en",
                text=text,
                split=split,
            )


def librilight(given: Path, *, subset: str) -> Iterator[Row]:
    """Yield Libri-light's recordings without transcripts: <subset>/<speaker>/<book>/*.flac."""
    root = _root(given, f"Libri-light's {subset}", f"{subset}/*/*/*.flac")
    for file in audio_files(root / subset):
        speaker, *rest = file.relative_to(root / subset).with_suffix("").parts
        yield Row(
            id="-".join([speaker, *rest]), path=file, speaker=speaker, language="en", split="train"
        )


LABELLED = {
    "10min": ("1h/0",),
    "1h": ("1h/*",),
    "10h": ("1h/*", "9h"),
}  # Kahn et al.: the 10 h are 1 h and 9 h more


def librilight_labelled(
    given: Path, *, amount: str, librispeech_folder: Path | None
) -> Iterator[Row]:
    """Yield Libri-light's 10min, 1h or 10h for training, and LibriSpeech's dev and test parts where they are given."""
    root = _root(given, "Libri-light's labelled part", "1h/*/*/*/*/*.trans.txt")
    for folder in LABELLED[amount]:
        yield from _chapters(root, f"{folder}/*/*/*", "train")
    if librispeech_folder is not None:
        yield from librispeech(
            librispeech_folder, train=(), valid=("dev-clean",), test=("test-clean",)
        )


def voxceleb1(given: Path, *, split_file: Path | None = None) -> Iterator[Row]:
    """Yield VoxCeleb1 by its official identification split: lines of "1|2|3 speaker/video/file.wav"."""
    root = _root(given, "VoxCeleb1", "wav/id1*", "dev/wav/id1*", "test/wav/id1*", "id1*")
    file = split_file or root / "iden_split.txt"
    if not file.is_file():
        raise CorpusError(
            f"{file}: no identification split; get iden_split.txt from VoxCeleb's page and name it by --split-file"
        )
    bases = [base for name in ("wav", "dev/wav", "test/wav", ".") if (base := root / name).is_dir()]
    for number, line in _lines(file):
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


def speechcommands(given: Path) -> Iterator[Row]:
    """Yield Speech Commands: word/speaker_nohash_n.wav, split by validation_list.txt and testing_list.txt."""
    root = _root(given, "Speech Commands", "testing_list.txt")
    places = {
        name: split
        for split, file in (("valid", "validation_list.txt"), ("test", "testing_list.txt"))
        for _, name in _lines(root / file)
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


def timit(given: Path) -> Iterator[Row]:
    """Yield TIMIT: training speakers, the usual 50 for validation, the core test's 24; 39 phones; no SA sentences.

    SA sentences are the two that every speaker reads; results are reported without them (Lee and Hon, 1989).
    """
    from lhotse.recipes.timit import get_phonemes, get_speakers

    root = _root(given, "TIMIT", "[Tt][Rr][Aa][Ii][Nn]/*/*/*")
    fold, (dev, core) = get_phonemes(39), get_speakers()
    files = [file for file in audio_files(root) if not file.name.upper().startswith("SA")]
    done = set()
    for file in files:
        stem = file.name.split(".")[0]  # some copies hold SI1027.WAV and SI1027.WAV.wav
        part, speaker = file.relative_to(root).parts[0].lower(), file.parent.name.lower()
        role = (
            "train"
            if part == "train"
            else "valid"
            if speaker in dev
            else "test"
            if speaker in core
            else ""
        )
        name = f"{speaker}-{stem.lower()}"
        if not role or name in done:
            continue
        done.add(name)
        words = re.sub(r"[^A-Z' ]", " ", _beside(file, stem, "TXT")[0].split(maxsplit=2)[2].upper())
        phones = [fold[line.split()[2]] for line in _beside(file, stem, "PHN")]
        yield Row(
            id=name,
            path=file,
            speaker=speaker,
            language="en",
            text=" ".join(words.split()),
            phones=" ".join(phone for phone in phones if phone),
            split=role,
        )


def _beside(file: Path, stem: str, suffix: str) -> list[str]:
    """Return the lines of the TIMIT label file beside `file`, upper or lower case."""
    label = next(
        (
            p
            for p in (file.with_name(f"{stem}.{s}") for s in (suffix, suffix.lower()))
            if p.is_file()
        ),
        None,
    )
    if label is None:
        raise CorpusError(
            f"{file.with_name(f'{stem}.{suffix}')}: missing; is this half an archive?"
        )
    lines = [line for _, line in _lines(label)]
    if not lines or any(len(line.split()) < 3 for line in lines):
        raise CorpusError(f"{label}: not TIMIT's labels: expected 'start end label' lines")
    return lines


def speechocean762(given: Path) -> Iterator[Row]:
    """Yield speechocean762: Kaldi's train and test folders, phones as the annotators give them, with stress."""
    root = _root(given, "speechocean762", "train/wav.scp")
    phones: dict[str, list[str]] = {}
    for key, spoken in _pairs(root / "resource" / "text-phone"):  # "000010011.1<tab>K_B AO0_I L_E"
        phones.setdefault(key.rpartition(".")[0], []).extend(
            p.rpartition("_")[0] or p for p in spoken.split()
        )
    for split in ("train", "test"):
        texts, speakers = (
            dict(_pairs(root / split / "text")),
            dict(_pairs(root / split / "utt2spk")),
        )
        for name, path in _pairs(root / split / "wav.scp"):
            if name not in texts or name not in speakers or name not in phones:
                raise CorpusError(
                    f"{root}: utterance '{name}' of {split}/wav.scp lacks text, speaker or phones"
                )
            yield Row(
                id=name,
                path=root / path,
                speaker=speakers[name],
                language="en",
                text=texts[name],
                phones=" ".join(phones[name]),
                split=split,
            )


DIGITS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")


def fsdd(given: Path) -> Iterator[Row]:
    """Yield the Free Spoken Digit Dataset: recordings 0-4 are its official test, 5-9 serve as valid here."""
    root = _root(given, "the Free Spoken Digit Dataset", "recordings/*.wav")
    for file in made_by_people((root / "recordings").glob("*.wav"), root):
        match = re.fullmatch(r"(\d)_([^_]+)_(\d+)", file.stem)
        if not match:
            raise CorpusError(f"{file}: expected digit_speaker_number.wav, as 7_jackson_32.wav")
        digit, speaker, number = int(match[1]), match[2], int(match[3])
        split = "test" if number < 5 else "valid" if number < 10 else "train"
        yield Row(
            id=file.stem, path=file, speaker=speaker, language="en", text=DIGITS[digit], split=split
        )
