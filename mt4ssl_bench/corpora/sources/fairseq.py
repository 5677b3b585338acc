"""fairseq's manifests: a TSV of files, with .wrd, .ltr, .phn and .km beside it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mt4ssl_bench.corpora.frame_labels import FrameLabels, Labels, cluster_ids, read_frame_labels
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.source import SPLITS, Options, Source
from mt4ssl_bench.data import audio
from mt4ssl_bench.errors import CorpusError


@dataclass(frozen=True, kw_only=True)
class Fairseq(Options):
    """Options of the labels."""

    clusters: Annotated[
        int | None, "Number of clusters in the .km files, 1 or more. Default: largest label + 1."
    ] = None


def read(file: Path, _: Options) -> Iterator[Row]:
    """Yield the utterances of a .tsv list, with texts of .wrd or .ltr and phones of .phn beside it.

    The first line of a list is the folder of its audio; the others are "relative path<tab>samples"
    at 16 kHz, as HuBERT reads them.

    Raises:
        CorpusError: If a file of labels has another number of lines, except empty ones at its end.
    """
    root, entries = _read_list(file)
    texts = _beside(file, ".wrd", len(entries))
    if texts is None and (letters := _beside(file, ".ltr", len(entries))) is not None:
        texts = ["".join(line.split()).replace("|", " ").strip() for line in letters]
    phones = _beside(file, ".phn", len(entries))
    for number, (relative, samples) in enumerate(entries):
        labels = [lines[number] for lines in (texts, phones) if lines]
        yield Row(
            id=_name(relative),
            path=root / relative,
            stated=samples / audio.RATE,
            text=texts[number] if texts else "",
            phones=phones[number] if phones else "",
            silent=bool(labels) and not any(label.strip() for label in labels),
            unusable=None if samples else ("no_duration", f"0 samples in {file.name}"),
        )


def read_km(files: Sequence[Path], options: Fairseq) -> FrameLabels | None:
    """Return the cluster labels of the .km files beside lists; None if there are none.

    Raises:
        CorpusError: If a line holds no cluster ids, or more or fewer than its audio needs.
        ConfigError: If the labels need more clusters than the options name.
    """
    labels = (label for file in files for label in _labels(file))
    return read_frame_labels("km", "fairseq .km", labels, options.clusters, "the .km files hold")


def _labels(file: Path) -> Iterator[Labels]:
    _, entries = _read_list(file)
    lines = _beside(file, ".km", len(entries)) or ()
    for number, ((relative, samples), line) in enumerate(zip(entries, lines, strict=False), 1):
        if samples:
            where = f"{file.with_suffix('.km')}, line {number}"
            yield _name(relative), cluster_ids(line, samples, where)


def _name(relative: str) -> str:
    return "-".join(Path(relative).with_suffix("").parts)


def _read_list(file: Path) -> tuple[Path, list[tuple[str, int]]]:
    lines = _text(file)
    while lines and not lines[-1]:
        lines.pop()
    if not lines or "\t" in lines[0]:
        raise CorpusError(
            f"{file}: not a list of fairseq's; expected the folder of its audio in the first line"
        )
    entries = []
    for number, line in enumerate(lines[1:], start=2):
        path, _, samples = line.rpartition("\t")
        if not path or not (samples.isascii() and samples.isdecimal()):
            raise CorpusError(f"{file}, line {number}: '{line[:60]}'; expected path<tab>samples")
        entries.append((path, int(samples)))
    return (file.parent / lines[0]).absolute(), entries


def _beside(file: Path, suffix: str, count: int) -> list[str] | None:
    labels = file.with_suffix(suffix)
    if not labels.is_file():
        return None
    lines = _text(labels)
    while (
        len(lines) > count and not lines[-1].strip()
    ):  # but not more: the last utterance's text may be empty
        lines.pop()
    if len(lines) != count:
        raise CorpusError(
            f"{labels}: {len(lines)} lines for {count} utterances of {file.name}; labels go by line"
        )
    return lines


def _text(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except (UnicodeDecodeError, OSError) as error:
        raise CorpusError(f"{file}: cannot be read as UTF-8 text ({error})") from None


SOURCE = Source(
    name="fairseq",
    about="fairseq's .tsv lists with .ltr, .wrd, .phn or .km beside them",
    read=read,
    options=Fairseq,
    takes=SPLITS,
    help=".wrd or .ltr files are texts, .phn phones and .km labels for the offline targets, 50 a "
    "second; the labels are written to <out>/labels-km.",
    examples=("fairseq train=data/train.tsv valid=data/dev_other.tsv --out corpora/mine",),
    tasks="pretrain; with .ltr or .wrd: asr, phoneme",
    phones_from=".phn",
    frame_labels=read_km,
)
