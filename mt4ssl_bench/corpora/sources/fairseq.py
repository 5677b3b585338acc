"""fairseq's manifests: a TSV of files, with .wrd, .ltr, .phn and .km beside it."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.sources.common import cluster_ids
from mt4ssl_bench.data import audio
from mt4ssl_bench.errors import CorpusError


def fairseq(splits: Mapping[str, Path]) -> Iterator[Row]:
    """Yield the rows of fairseq's .tsv lists, with the texts of .wrd or .ltr and the phones of .phn
    files beside them.

    A list holds its root in the first line, then "relative path<tab>samples" lines at 16 kHz, as
    HuBERT reads them. Labels belong to lines by number: a file of another length, empty lines at
    its end apart, is a CorpusError.
    """
    for split, file in splits.items():
        root, entries = _read_list(file)
        words = _beside(file, ".wrd", len(entries))
        if words is None:
            letters = _beside(file, ".ltr", len(entries))
            words = (
                None
                if letters is None
                else ["".join(line.split()).replace("|", " ").strip() for line in letters]
            )
        phones = _beside(file, ".phn", len(entries))
        for number, (relative, samples) in enumerate(entries):
            yield Row(
                id=_name(relative),
                path=root / relative,
                stated=samples / audio.RATE,
                split=split,
                text=words[number] if words else "",
                phones=phones[number] if phones else "",
                silent=bool(words or phones)
                and not (words and words[number].strip())
                and not (phones and phones[number].strip()),
                unusable=None if samples else ("no_duration", f"0 samples in {file.name}"),
            )


def fairseq_labels(splits: Mapping[str, Path]) -> Iterator[tuple[str, NDArray[np.uint16]]]:
    """Yield (utterance id, cluster ids (T,) at 50 Hz) of the .km files beside fairseq's lists, if
    there are any.

    Raises CorpusError naming file and line for what are no cluster ids, or more or fewer than the
    audio's length needs.
    """
    for file in splits.values():
        _, entries = _read_list(file)
        lines = _beside(file, ".km", len(entries)) or ()
        for number, ((relative, samples), line) in enumerate(
            zip(entries, lines, strict=False), start=1
        ):
            where = f"{file.with_suffix('.km')}, line {number}"
            if samples:
                yield _name(relative), cluster_ids(line, samples, where)


def _name(relative: str) -> str:
    return "-".join(Path(relative).with_suffix("").parts)


def _read_list(file: Path) -> tuple[Path, list[tuple[str, int]]]:
    lines = _text(file)
    while lines and not lines[-1]:
        lines.pop()
    if not lines or "\t" in lines[0]:
        raise CorpusError(
            f"{file}: not a list of fairseq's: its first line is the folder that the paths start "
            "from"
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
    ):  # no further: the last utterance's text may be empty
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
