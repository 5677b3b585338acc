"""QUESST 2014: spoken queries and the documents that contain them, in six languages."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mt4ssl_bench.corpora.download import Archive
from mt4ssl_bench.corpora.layout import numbered_lines, pairs, root_of
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.source import Options, Source
from mt4ssl_bench.data.lists import Lists
from mt4ssl_bench.errors import CorpusError

KEYS = {"documents": "utterances", "valid": "dev", "test": "eval"}  # language_key_<part>.lst
# "LEXEME <document> ... <query> ...": NIST's RTTM, as s3prl reads it
LEXEME = re.compile(r"LEXEME\s+(quesst14_\d+)\s.*?(quesst14_(?:dev|eval)_\d+)(?:\s|$)")


@dataclass(frozen=True, kw_only=True)
class Quesst2014(Options):
    """Options of the command."""

    spoken: Annotated[str, "Language of documents and queries, as the language keys name it."] = (
        "nnenglish"
    )

    def notes(self) -> dict[str, str]:
        """See Options.notes."""
        return {"language": self.spoken}


def read(given: Path, options: Quesst2014) -> Iterator[Row]:
    """Yield documents, dev queries (valid) and eval queries (test) of the language."""
    root = _root(given)
    for split, part in KEYS.items():
        key = root / "scoring" / f"language_key_{part}.lst"
        files = _files(key, options.spoken)
        for name, path in files.items():
            language = "en" if options.spoken == "nnenglish" else ""
            yield Row(id=name, path=root / path, language=language, split=split)


def matches(given: Path, options: Quesst2014) -> Lists:
    """Return which document contains which query; pairs with another language are left out."""
    root = _root(given)
    keys = {split: root / "scoring" / f"language_key_{part}.lst" for split, part in KEYS.items()}
    names = {split: _files(key, options.spoken) for split, key in keys.items()}
    rows: dict[tuple[str, str], None] = {}  # a document may contain a query several times
    for split in ("valid", "test"):
        folder = root / "scoring" / f"groundtruth_quesst14_{KEYS[split]}"
        file, before = folder / f"quesst14_{KEYS[split]}.rttm", len(rows)
        for query, document in _lexemes(file):
            if query in names[split] and document in names["documents"]:
                rows[query, document] = None
        if len(rows) == before:
            raise CorpusError(
                f"{file}: no LEXEME line of a query and a document of '{options.spoken}'"
            )
    return {"matches": [{"query_id": query, "document_id": each} for query, each in rows]}


def _lexemes(file: Path) -> Iterator[tuple[str, str]]:
    """Yield the query and the document of each LEXEME line."""
    for number, line in numbered_lines(file):
        found = LEXEME.match(line)
        if found:
            yield found[2], found[1]
        elif line.startswith("LEXEME"):
            raise CorpusError(
                f"{file}, line {number}: '{line}'; expected LEXEME, a document (quesst14_12345) "
                "and a query (quesst14_dev_123)"
            )


def _root(given: Path) -> Path:
    return root_of(given, "QUESST 2014", "scoring/language_key_utterances.lst")


def _files(key: Path, language: str) -> dict[str, str]:
    """Return files by name; a line is "quesst14Database/Audio/x.wav nnenglish"."""
    lines = list(pairs(key))
    found = {
        Path(path).stem: path.partition("/")[2] for path, spoken in lines if spoken == language
    }
    if not found:
        there = ", ".join(sorted({spoken for _, spoken in lines})) or "none"
        raise CorpusError(f"{key}: no file of language '{language}'; it has {there}")
    return found


SOURCE = Source(
    name="quesst2014",
    about="QUESST 2014: queries and documents; SUPERB's corpus for query by example",
    read=read,
    options=Quesst2014,
    help="""Splits are documents, valid (the dev queries) and test (the eval queries) of one
    language, by default non-native English as in SUPERB. The list matches has the documents that
    contain a query, from groundtruth_quesst14_{dev,eval}.""",
    examples=("quesst2014 --download --out corpora/quesst2014",),
    hours="23 h in six languages",
    licence="as its archive states",
    tasks="query",
    homepage="https://speech.fit.vutbr.cz/",
    citation="Anguera et al., QUESST2014: evaluating query-by-example speech search in a "
    "zero-resource setting with real-life queries, ICASSP 2015",
    archives={  # no checksum is published
        "quesst14Database": Archive("https://speech.fit.vutbr.cz/files/quesst14Database.tgz")
    },
    texts=False,
    strict=True,
    lists=matches,
)
