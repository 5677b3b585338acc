"""A corpus on disk: a Lhotse manifest per split, or shards; lists; and corpus.json."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from mt4ssl_bench.data.corpus_info import CorpusInfo, parse
from mt4ssl_bench.data.cuts import Cuts
from mt4ssl_bench.data.lists import parse_list
from mt4ssl_bench.data.remote import fetch, is_url
from mt4ssl_bench.data.shards import Shards
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.registry import hint

# of URLs, as they begin once they were taken for a path
SCHEMES = ("http:/", "https:/", "s3:/", "gs:/")
# splits of their own for speaker tasks, where the plain ones are speaker-disjoint
SID_PREFIX = "sid_"


class Corpus:
    """An opened corpus: `info`, `root`, and cuts by split."""

    def __init__(self, where: str | Path, info: CorpusInfo) -> None:
        self.where, self.root, self.info = str(where), Path(where), info

    @classmethod
    def open(cls, path: str | Path) -> "Corpus":
        """Open a corpus's folder, or the URL of one in shards.

        Raises:
            CorpusError: If it is none.
        """
        if is_url(str(path)):
            where = str(path).rstrip("/")
            return cls(where, parse(fetch(f"{where}/corpus.json").read(), f"{where}/corpus.json"))
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
        return cls(root, parse(file.read_bytes(), str(file)))

    def cuts(self, split: str) -> Cuts | Shards:
        """Return the split's cuts, parsed when they are asked for.

        Raises:
            CorpusError: If the corpus has no such split, or it is empty or damaged.
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


def joint_digest(corpora: Sequence[Corpus]) -> str:
    """Return one digest of several corpora in any order; one corpus keeps its own."""
    digests = sorted(corpus.info.digest for corpus in corpora)
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]
