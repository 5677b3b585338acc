"""The model that ships: trained and exported from prepared corpora by one command.

    make model
    python benchmarks/build_model.py corpora/speechocean762 corpora/librispeech --out build/model

The corpora are those of `mt4ssl-bench prepare`, from the publishers' downloads or a local copy. Of
all their splits, only the utterances of upstream/shipped/mt4ssl.ids are used. A call continues an
interrupted one. Writes mt4ssl.safetensors, mt4ssl.sha256 and mt4ssl.jsonl (the log) into --out.
"""

import argparse
import csv
import shutil
from collections.abc import Sequence
from pathlib import Path

from mt4ssl_bench.corpora.prepare_source import prepare_path
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.upstream.checkpoints.export import to_s3prl
from mt4ssl_bench.upstream.checkpoints.shipped import write_digest
from mt4ssl_bench.upstream.pretrain import pretrain

IDS = Path(__file__).parent.parent / "upstream" / "shipped" / "mt4ssl.ids"
FIRST = ("fit.steps=3000", "targets.online.ema_steps=2000")
LAYER = "targets.offline.layer=3"


def listed() -> list[tuple[str, str]]:
    """Return (split, utterance id) of every utterance that the model is made from."""
    rows = [line.split("\t") for line in IDS.read_text(encoding="utf-8").splitlines()]
    return [(split, name) for split, name in rows]


def select(corpora: Sequence[Corpus], out: Path) -> Corpus:
    """Make a corpus of the listed utterances; their order is that of the list."""
    cuts: dict[str, Cut] = {}
    for corpus in corpora:
        for split in corpus.info.splits:
            cuts |= {cut.id: cut for cut in corpus.cuts(split)}
    wanted = listed()
    if missing := [name for _, name in wanted if name not in cuts]:
        raise SystemExit(
            f"{len(missing)} of {len(wanted)} utterances are in none of the corpora, the first is "
            f"'{missing[0]}'; expected speechocean762 and LibriSpeech's train-clean-100"
        )
    out.mkdir(parents=True, exist_ok=True)
    table = out / "utterances.tsv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["id", "path", "split"])
        for split, name in wanted:
            source = cuts[name].recording.sources[0].source
            writer.writerow([name, Path(str(source)).resolve(), split])
    return prepare_path("table", table, out / "corpus")


def build(corpora: Sequence[Corpus], out: Path, keys: Sequence[str] = ()) -> Path:
    """Train in two iterations and export the second; returns the exported file.

    The labels of the first are clusters of MFCC, those of the second of a layer of the first.
    """
    data = f"data.corpus={select(corpora, out).root}"
    first, second, file = out / "first", out / "second", out / "mt4ssl.safetensors"
    pretrain("mt4ssl_fbank", data, *FIRST, *keys, out=first)
    labels = f"targets.offline.features={first}"
    pretrain("mt4ssl_fbank", data, labels, LAYER, *keys, out=second)
    file.unlink(missing_ok=True)
    print(f"{file}: fingerprint {to_s3prl(second, file, half=True)}")
    write_digest(file)
    shutil.copyfile(second / "log.jsonl", out / "mt4ssl.jsonl")
    return file


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", nargs="+", type=Path, help="folders of prepared corpora")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--key", action="append", default=[], help="recipe key, to try the script")
    arguments = parser.parse_args()
    build([Corpus.open(path) for path in arguments.corpora], arguments.out, arguments.key)


if __name__ == "__main__":
    main()
