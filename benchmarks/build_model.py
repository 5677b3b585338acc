"""The model that ships: trained and exported from prepared corpora by one command.

    make model
    python benchmarks/build_model.py corpora/speechocean762 corpora/librispeech --out build/model
    python benchmarks/build_model.py --out build/model --card results --revision "$(git rev-parse HEAD)"

The corpora are those of `mt4ssl-bench prepare`, from the publishers' downloads or a local copy. Of
all their splits, only the utterances of upstream/shipped/mt4ssl.ids are used. A call continues an
interrupted one. Writes mt4ssl.safetensors, mt4ssl.sha256 and mt4ssl.jsonl (the log) into --out.
"""

import argparse
import csv
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path

from mt4ssl_bench import checkpoint
from mt4ssl_bench.corpora.prepare_source import prepare_path
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.encoders.load import load_upstream
from mt4ssl_bench.results.leaderboard import Leaderboard
from mt4ssl_bench.upstream.checkpoints.export import to_s3prl
from mt4ssl_bench.upstream.checkpoints.shipped import write_digest
from mt4ssl_bench.upstream.pretrain import pretrain

IDS = Path(__file__).parent.parent / "upstream" / "shipped" / "mt4ssl.ids"
FIRST = (
    "fit.steps=2500",
    "frontend.warp=0",
    "encoder.dropout=0",
    "encoder.attention_dropout=0",
)
LAYER = "targets.offline.layer=0"
CARD = """# mt4ssl

The speech encoder that `mt4ssl-bench` ships: a small MT4SSL model (student only, fp16). It is a
baseline that works offline at once, and a start for your own pretraining. It is not a general
speech model.

| | |
|---|---|
{facts}

## Use

```
mt4ssl-bench evaluate mt4ssl fbank --task phoneme --corpus corpora/mine --out results
mt4ssl-bench pretrain mt4ssl_fbank init=mt4ssl data.corpus=corpora/mine --out runs/mine
python -c 'from mt4ssl_bench import load_upstream; print(load_upstream("mt4ssl").num_layers)'
```

## Scores

95 % intervals are over utterances (PER) or speakers (ABX), not over trainings: one training was
scored. None of the test utterances or their speakers were in training.

{scores}

## What it is not good for

- Anything that needs the quality of a published Base model: it was trained on {hours:.1f} hours,
  not on 960.
- Speakers, emotion, loudness or the channel: the energies of each band are normalized over the
  utterance, which removes much of them. Single words of less than a second lose more than
  sentences do.
- Languages other than English. Most of the training audio is English read by learners whose first
  language is Mandarin, half of them children.
- Noisy, distant or overlapping speech. It was never in training.

## Data

- speechocean762 (Zhang et al., Interspeech 2021, https://www.openslr.org/101), CC BY 4.0: 1,200
  utterances of the 60 training speakers of a subset of 100 speakers.
- LibriSpeech (Panayotov et al., ICASSP 2015, https://www.openslr.org/12), CC BY 4.0: 50 utterances
  of train-clean-100.

Validation losses, which chose no checkpoint, were computed on 200 other utterances of
speechocean762 (10 speakers). `make model` builds the model again. If you evaluate on another split
of these corpora, leave out the utterances and speakers below.

## Training utterances

{ids}
"""


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
    labels = (f"targets.offline.features={first}", LAYER, f"init={first}")
    pretrain("mt4ssl_fbank", data, *labels, *keys, out=second)
    file.unlink(missing_ok=True)
    print(f"{file}: fingerprint {to_s3prl(second, file, half=True)}")
    write_digest(file)
    shutil.copyfile(second / "log.jsonl", out / "mt4ssl.jsonl")
    return file


def card(out: Path, results: Path, revision: str) -> str:
    """Return the model card of a built model, with the records of `results`."""
    upstream = load_upstream(str(out / "mt4ssl.safetensors"))
    first, second = (checkpoint.load(out / name / "checkpoint.pt") for name in ("first", "second"))
    audio = sum(cut.duration for cut in Corpus.open(out / "corpus").cuts("train")) / 3600
    heard = (first["audio_seconds"] + second["audio_seconds"]) / 3600
    spent = first["seconds"] + second["seconds"]
    facts = {
        "parameters": f"{upstream.parameters:,}",
        "features": f"{upstream.num_layers} hidden states of {upstream.dim}, one frame per 20 ms",
        "input": "16 kHz mono",
        "recipe": "`mt4ssl_fbank`, by `benchmarks/build_model.py`",
        "training audio": f"{audio:.2f} h; {heard:.0f} h with repetitions",
        "updates": f"{first['step']:,} with labels of MFCC, then {second['step']:,} with labels of "
        "the first model",
        "seconds": f"{spent:,.0f} on one CPU core",
        "revision": revision,
        "fingerprint": upstream.fingerprint,
    }
    names = [name for split, name in listed() if split == "train"]
    rows = textwrap.wrap(" ".join(names), 98, break_on_hyphens=False)
    return CARD.format(
        facts="\n".join(f"| {key} | {value} |" for key, value in facts.items()),
        scores=Leaderboard.from_folder(results).to_markdown().strip(),
        hours=audio,
        ids="```\n" + "\n".join(rows) + "\n```",
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", nargs="*", type=Path, help="folders of prepared corpora")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--key", action="append", default=[], help="recipe key, to try the script")
    parser.add_argument("--card", type=Path, help="results folder: write the model card, mt4ssl.md")
    parser.add_argument("--revision", default="not given", help="commit, for the card")
    given = parser.parse_args()
    if given.corpora:
        build([Corpus.open(path) for path in given.corpora], given.out, given.key)
    if given.card:
        text = card(given.out, given.card, given.revision)
        (given.out / "mt4ssl.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
