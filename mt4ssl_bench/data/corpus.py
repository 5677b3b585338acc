"""A corpus on disk: a Lhotse manifest (jsonl.gz) per split, lists, and corpus.json, written last,
binding them by a digest.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from mt4ssl_bench.data.cut import Cut, Json
from mt4ssl_bench.data.cuts import Cuts, write_cuts
from mt4ssl_bench.data.remote import fetch, is_url
from mt4ssl_bench.data.shards import Shards
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.files import write_text
from mt4ssl_bench.registry import hint

FORMAT = 1
# of URLs, as they begin once they were taken for a path
SCHEMES = ("http:/", "https:/", "s3:/", "gs:/")
# splits of their own for speaker tasks, where the plain ones are speaker-disjoint
SID_PREFIX = "sid_"
ID = "_id"  # how the name of a list's column ends whose cells name utterances

Lists = Mapping[str, Sequence[Mapping[str, str]]]  # name -> rows: column -> cell


@dataclass(frozen=True, kw_only=True)
class SplitInfo:
    """What one split holds."""

    utterances: int
    hours: float
    speakers: int


@dataclass(frozen=True, kw_only=True)
class CorpusInfo:
    """corpus.json: what a corpus is; `digest` covers all but paths, languages and notes.

    Attributes:
        fields: What every utterance of the corpus has: text, phones, speaker, the name of a label,
            "turns:<tier>" or "other:<name>".
        lists: Number of rows of each list.
    """

    format: int = FORMAT
    name: str
    digest: str
    splits: dict[str, SplitInfo]
    fields: list[str]
    languages: list[str] = field(default_factory=list)
    licence: str = "unknown"
    synthetic: bool = False  # made by a synthesiser: never a speech benchmark
    phones_from: str = ""  # "manifest", or the lexicon that made them
    shards: int = 0  # cuts per shard, where the splits lie in shards and not in files
    labels: dict[str, Json] = field(default_factory=dict)  # of the label store that shards carry
    notes: dict[str, Any] = field(default_factory=dict)  # exclusions, words without phones
    lists: dict[str, int] = field(default_factory=dict)


class Corpus:
    """An opened corpus: `info`, `root`, and cuts by split."""

    def __init__(self, where: str | Path, info: CorpusInfo) -> None:
        self.where, self.root, self.info = str(where), Path(where), info

    @classmethod
    def open(cls, path: str | Path) -> "Corpus":
        """Open the corpus folder `path`, or the URL of one in shards.

        Raises CorpusError when it is not one.
        """
        if is_url(str(path)):
            where = str(path).rstrip("/")
            return cls(where, _parse(fetch(f"{where}/corpus.json").read(), f"{where}/corpus.json"))
        root = Path(path)
        file = root / "corpus.json"
        if str(root).startswith(SCHEMES) and not root.is_dir():
            url = str(root).replace(":/", "://", 1)
            raise CorpusError(
                f"corpus {url}: only pretraining reads a URL; copy the shards to a folder and name "
                "that"
            )
        if not root.is_dir():
            raise CorpusError(
                f"corpus {root}: no such folder; 'mt4ssl-bench prepare --help' shows how to make "
                "one"
            )
        if not file.is_file():
            raise CorpusError(
                f"corpus {root}: holds no corpus.json; 'mt4ssl-bench prepare' makes one"
            )
        return cls(root, _parse(file.read_bytes(), str(file)))

    def cuts(self, split: str) -> Cuts | Shards:
        """Return the split's cuts, parsed as they are asked for.

        Raises CorpusError for a split that cannot be used.
        """
        if split not in self.info.splits:
            raise CorpusError(
                f"corpus {self.root}: no split '{split}'; {hint(split, self.info.splits)}"
            )
        stated = self.info.splits[split].utterances
        if not stated:
            raise CorpusError(f"corpus {self.root}: split '{split}' holds no utterance")
        if self.info.shards:
            return Shards(f"{self.where}/{split}")
        if is_url(self.where):
            raise CorpusError(
                f"corpus {self.where}: only shards are read from a URL; 'mt4ssl-bench shard' makes "
                "them"
            )
        file = self.root / f"{split}.jsonl.gz"
        if not file.is_file():
            raise CorpusError(
                f"{file}: missing from the corpus; prepare it again into an empty folder"
            )
        cuts = Cuts(file, self.root)
        if len(cuts) != stated:
            raise CorpusError(
                f"{file}: damaged ({len(cuts)} cuts, not {stated}); prepare it again into an empty "
                "folder"
            )
        return cuts

    def list(self, name: str) -> list[dict[str, str]]:
        """Return the rows of a list, cells by column.

        Raises:
            CorpusError: If the corpus has no such list, or its file is missing or damaged.
        """
        if name not in self.info.lists:
            raise CorpusError(
                f"corpus {self.root}: no list '{name}'; {hint(name, self.info.lists)}"
            )
        file = self.root / "lists" / f"{name}.tsv"
        rows = parse_list(file)
        if len(rows) != self.info.lists[name]:
            raise CorpusError(
                f"{file}: damaged ({len(rows)} rows, not {self.info.lists[name]}); prepare it "
                "again into an empty folder"
            )
        return rows


def parse_list(file: Path) -> list[dict[str, str]]:
    """Return the rows of a TSV file with a header, cells by column.

    Raises:
        CorpusError: If it cannot be read; the message names the line.
    """
    try:
        header, *lines = file.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"list {file}: cannot be read ({error}); expected UTF-8 text") from None
    columns = header.rstrip("\r").split("\t")
    if len(set(columns)) < len(columns) or not all(columns):
        raise CorpusError(f"list {file}: its header has an empty or repeated column: {header!r}")
    rows = []
    for number, line in enumerate(lines, start=2):
        cells = line.rstrip("\r").split("\t")
        if len(cells) != len(columns):
            raise CorpusError(
                f"list {file}, line {number}: {len(cells)} cells; expected {len(columns)}, "
                "separated by tabs, as in its header"
            )
        rows.append(dict(zip(columns, cells, strict=True)))
    return rows


def write_corpus(
    root: Path,
    cuts: Mapping[str, Iterable[Cut | Mapping[str, Json]]],
    info: Callable[[dict[str, SplitInfo]], CorpusInfo],
    lists: Callable[[], Lists] = dict,
) -> Corpus:
    """Write the splits, lists and, last, corpus.json, whose existence means a whole corpus.

    Args:
        root: Folder of the corpus.
        cuts: By split; each is read once, so that a generator keeps only one cut in memory.
        info: Called with what the splits hold once they are written.
        lists: Called for the lists, then.
    """
    root.mkdir(parents=True, exist_ok=True)
    splits: dict[str, SplitInfo] = {}
    for split, members in cuts.items():
        tally = Tally()
        write_cuts(root / f"{split}.jsonl.gz", tally.of(members))
        splits[split] = tally.info
    sizes = write_lists(root, lists())
    return write_info(root, replace(info(splits), lists=sizes))


def write_lists(root: Path, lists: Lists) -> dict[str, int]:
    """Write each list to lists/<name>.tsv; returns how many rows each has."""
    for name, rows in lists.items():
        (root / "lists").mkdir(exist_ok=True)
        lines = ["\t".join(rows[0]), *("\t".join(row.values()) for row in rows)]
        write_text(root / "lists" / f"{name}.tsv", "\n".join(lines) + "\n")
    return {name: len(rows) for name, rows in lists.items()}


def write_info(root: Path, info: CorpusInfo) -> Corpus:
    """Write corpus.json, the last file of a corpus; returns it opened."""
    raw = asdict(info)
    if not info.lists:  # versions that know no lists read what has none
        del raw["lists"]
    write_text(root / "corpus.json", json.dumps(raw, indent=1, ensure_ascii=False) + "\n")
    return Corpus.open(root)


def _parse(content: bytes, where: str) -> CorpusInfo:
    try:
        raw = json.loads(content.decode())
        raw["splits"] = {name: SplitInfo(**split) for name, split in raw["splits"].items()}
        info = CorpusInfo(**raw)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorpusError(
            f"{where}: not a corpus of this version ({error}); prepare it again"
        ) from None
    if info.format != FORMAT:
        raise CorpusError(
            f"{where}: format {info.format}, this version reads {FORMAT}; prepare it again"
        )
    return info


class Tally:
    """Counts utterances, hours and speakers of the cuts that pass through of()."""

    def __init__(self) -> None:
        self.utterances, self.seconds = 0, 0.0
        self.speakers: set[str] = set()

    def of(self, cuts: Iterable[Cut | Mapping[str, Json]]) -> Iterator[Mapping[str, Json]]:
        """Yield the cuts as dicts, counting them."""
        for cut in cuts:
            raw = cut if isinstance(cut, Mapping) else cut.to_dict()
            supervisions = cast("Sequence[Mapping[str, str]]", raw.get("supervisions", []))
            self.utterances += 1
            self.seconds += cast("float", raw["duration"])
            self.speakers |= {about.get("speaker", "") for about in supervisions[:1]} - {""}
            yield raw

    @property
    def info(self) -> SplitInfo:
        """What has passed so far."""
        return SplitInfo(
            utterances=self.utterances,
            hours=round(self.seconds / 3600, 4),
            speakers=len(self.speakers),
        )
