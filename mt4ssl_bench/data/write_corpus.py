"""Writing a corpus: splits, lists and, last, corpus.json, whose existence means a whole corpus."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.corpus_info import CorpusInfo, SplitInfo
from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.data.cuts import write_cuts
from mt4ssl_bench.data.lists import Lists, write_lists
from mt4ssl_bench.files import write_text
from mt4ssl_bench.settings import Json


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


def write_info(root: Path, info: CorpusInfo) -> Corpus:
    """Write corpus.json, the last file of a corpus; returns it opened."""
    raw = asdict(info)
    if not info.lists:  # versions that know no lists read what has none
        del raw["lists"]
    write_text(root / "corpus.json", json.dumps(raw, indent=1, ensure_ascii=False) + "\n")
    return Corpus.open(root)


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
