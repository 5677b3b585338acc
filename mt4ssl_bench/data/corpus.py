"""A corpus on disk: a Lhotse manifest (jsonl.gz) per split, and corpus.json, written last, binding
them by a digest.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mt4ssl_bench.data.cuts import Cuts, write_cuts
from mt4ssl_bench.data.remote import fetch, is_url
from mt4ssl_bench.data.shards import Shards
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.files import write_text
from mt4ssl_bench.registry import hint

FORMAT = 1
SCHEMES = (
    "http:/",
    "https:/",
    "s3:/",
    "gs:/",
)  # of URLs, as they begin once they were taken for a path
# splits of their own for speaker tasks, where the plain ones are speaker-disjoint
SID_PREFIX = "sid_"


@dataclass(frozen=True, kw_only=True)
class SplitInfo:
    """What one split holds."""

    utterances: int
    hours: float
    speakers: int


@dataclass(frozen=True, kw_only=True)
class CorpusInfo:
    """corpus.json: what a corpus is; `digest` covers audio bytes, texts, phones, speakers and
    splits.
    """

    format: int = FORMAT
    name: str
    digest: str
    splits: dict[str, SplitInfo]
    fields: list[str]  # of text, phones, speaker: what every utterance of the corpus has
    languages: list[str] = field(default_factory=list)
    licence: str = "unknown"
    synthetic: bool = False  # made by a synthesiser: never a speech benchmark
    phones_from: str = ""  # "manifest", or the lexicon that made them
    shards: int = 0  # cuts per shard, where the splits lie in shards and not in files
    labels: dict[str, Any] = field(
        default_factory=dict
    )  # of the label store whose labels the shards carry
    notes: dict[str, Any] = field(
        default_factory=dict
    )  # exclusions by reason, out-of-vocabulary words


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

    def split_for(self, name: str, *, speaker_task: bool) -> str:
        """Return which split serves as `name` ("train"): for speaker tasks "sid_train" where the
        corpus has it.
        """
        own = SID_PREFIX + name
        return own if speaker_task and own in self.info.splits else name


def write_corpus(
    root: Path,
    cuts: Mapping[str, Iterable[Any]],
    **facts: Any,  # noqa: ANN401
) -> Corpus:
    """Write the splits, then corpus.json, so that its existence means a whole corpus.

    Returns it opened.

    Args:
        cuts: by split; each is read once, so that a generator keeps only one cut in memory.
        facts: the other fields of CorpusInfo; a function is called once the splits are written.
    """
    root.mkdir(parents=True, exist_ok=True)
    splits: dict[str, SplitInfo] = {}
    for split, members in cuts.items():
        tally = Tally()
        write_cuts(root / f"{split}.jsonl.gz", tally.of(members))
        splits[split] = tally.info
    return write_info(
        root, CorpusInfo(splits=splits, **{k: v() if callable(v) else v for k, v in facts.items()})
    )


def write_info(root: Path, info: CorpusInfo) -> Corpus:
    """Write corpus.json, the last file of a corpus; returns it opened."""
    write_text(root / "corpus.json", json.dumps(asdict(info), indent=1, ensure_ascii=False) + "\n")
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
    """Counts the cuts that pass through of(): `info` says how many utterances, hours and speakers
    there were.
    """

    def __init__(self) -> None:
        self.utterances, self.seconds = 0, 0.0
        self.speakers: set[str] = set()

    def of(self, cuts: Iterable[Any]) -> Iterator[Any]:
        """Yield the cuts (or their dicts), counting them."""
        for cut in cuts:
            raw = cut if isinstance(cut, dict) else cut.to_dict()
            self.utterances += 1
            self.seconds += raw["duration"]
            self.speakers |= {one.get("speaker", "") for one in raw.get("supervisions", [])[:1]} - {
                ""
            }
            yield raw

    @property
    def info(self) -> SplitInfo:
        """What has passed so far."""
        return SplitInfo(
            utterances=self.utterances,
            hours=round(self.seconds / 3600, 4),
            speakers=len(self.speakers),
        )
