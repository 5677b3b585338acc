"""Hours of audio that `check` reads in a minute: headers only, and every sample decoded.

    python benchmarks/check_corpus.py CORPUS [HOURS]

Copies the FLAC files of a prepared corpus until they last HOURS (default: 50).
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

from mt4ssl_bench.corpora.check import check_corpus
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cuts import write_cuts


def copies(corpus: Corpus, root: Path, hours: float) -> Corpus:
    """Write the training split again and again, each file a copy of its own."""
    cuts = [cut.to_dict() for cut in corpus.cuts("train")]
    once = sum(cut["duration"] for cut in cuts) / 3600
    made = []
    for turn in range(max(1, round(hours / once))):
        (root / str(turn)).mkdir()
        for number, cut in enumerate(cuts):
            source = Path(cut["recording"]["sources"][0]["source"])
            file = root / str(turn) / f"{number}{source.suffix}"
            shutil.copy(source, file)
            copy = json.loads(json.dumps(cut)) | {"id": f"{cut['id']}-{turn}"}
            copy["recording"]["sources"][0]["source"] = str(file)
            made.append(copy)
    write_cuts(root / "train.jsonl.gz", made)
    facts = {"utterances": len(made), "hours": once * (turn + 1), "speakers": 1}
    info = json.loads((corpus.root / "corpus.json").read_text(encoding="utf-8")) | {
        "splits": {"train": facts}
    }
    (root / "corpus.json").write_text(json.dumps(info), encoding="utf-8")
    return Corpus.open(root)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", help="a prepared corpus")
    parser.add_argument("hours", type=float, nargs="?", default=50.0, help="of audio to check")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        corpus = copies(Corpus.open(options.corpus), Path(folder), options.hours)
        held = corpus.info.splits["train"]
        seconds = 3600 * held.hours / held.utterances
        print(
            f"{os.cpu_count()} cores; {held.utterances:,} FLAC files, {held.hours:.1f} h, "
            f"{seconds:.1f} s each"
        )
        for full, target in ((False, 200), (True, 20)):
            began = time.monotonic()
            check_corpus(corpus, full=full)
            rate = held.hours / (time.monotonic() - began) * 60
            what = "every sample" if full else "headers"
            print(
                f"{what}: {rate:,.0f} h of audio a minute (target {target}), ratio "
                f"{rate / target:.1f}"
            )


if __name__ == "__main__":
    main()
