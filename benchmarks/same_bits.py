"""Do two revisions compute the same bits? The proof that a refactoring has changed no behavior.

    python benchmarks/same_bits.py 16264c9 HEAD

Each revision is checked out into a temporary folder and run through its command line only: a corpus
of tones is prepared, `mt4ssl_tiny` is pretrained for 20 updates, and the result is evaluated frozen
on three tasks and fine-tuned on phonemes. Prints a digest for each result, and exits with 1 if two
of them differ. Dates, durations, versions, addresses and identities (keys, fingerprints) are left
out: an identity may change between revisions, what it identifies may not.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch

ROOT = Path(__file__).parent.parent
WORDS = {"LOW": ("L OW", 300.0), "MID": ("M IH D", 900.0), "HIGH": ("HH AY", 2400.0)}
RATE = 16_000
TINY = ("encoder.dim=64", "encoder.ffn=128", "encoder.heads=4", "frontend.channels=32")
PRETRAIN = (*TINY, "fit.steps=20", "fit.log_every=1", "data.batch_seconds=8", "data.workers=0")
RENAMED = {key: f"online_{key}" for key in ("target_var", "pred_var", "ema_decay")}  # in the log
HEADS = ("steps=150", "validate_every=50")
TASKS = {
    "phoneme_tiny": ("sweep=1e-2,1e-3",),
    "asr_tiny": ("sweep=1e-3", "head.projection=32", "head.hidden=32"),
    "speaker_tiny": ("sweep=1e-2", "crop_seconds=1"),
    "phoneme_finetune_tiny": ("sweep=1e-3", "tune.batch_seconds=8"),
}


def write_corpus(folder: Path) -> Path:
    """Write a manifest of 40 sequences of tones by four speakers."""
    rng = np.random.default_rng(0)
    (folder / "audio").mkdir(parents=True)
    rows = ["id\tpath\tspeaker\tlanguage\ttext\tphones\tsplit"]
    for number in range(40):
        speaker, words = number % 4, rng.choice(list(WORDS), size=3 + number % 3)
        parts = []
        for word in words:
            time = np.arange(int(RATE * rng.uniform(0.25, 0.4))) / RATE
            wobble = 1 + 0.01 * (speaker + 1) * np.sin(2 * np.pi * (3 + 2 * speaker) * time)
            parts += [0.2 * np.sin(2 * np.pi * WORDS[word][1] * wobble * time), np.zeros(800)]
        samples = np.concatenate(parts)
        samples = samples + 0.003 * rng.standard_normal(len(samples))
        soundfile.write(folder / "audio" / f"u{number}.flac", samples.astype(np.float32), RATE)
        split = "test" if number < 8 else "valid" if number < 16 else "train"
        phones = " ".join(WORDS[word][0] for word in words)
        row = [f"u{number}", f"audio/u{number}.flac", f"spk{speaker}", "en", " ".join(words)]
        rows.append("\t".join([*row, phones, split]))
    manifest = folder / "manifest.tsv"
    manifest.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return manifest


def run(tree: Path, *arguments: str) -> None:
    """Run a command of the revision in `tree`."""
    # without PYTHONSAFEPATH, `-m` would take the package of the current folder for both revisions
    environment = os.environ | {
        "PYTHONPATH": str(tree),
        "PYTHONSAFEPATH": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "mt4ssl_bench", *arguments]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def digest(value: object) -> str:
    """Return 16 hex digits of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def tensors(path: Path) -> str:
    """Return a digest of every tensor in a checkpoint, whatever else it holds."""
    total = hashlib.sha256()
    stored = torch.load(path, weights_only=True)
    for name, tensor in sorted(stored["model"].items()):
        total.update(
            name.encode() + tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        )
    return total.hexdigest()[:16]


def results(tree: Path, manifest: Path, work: Path) -> Iterator[tuple[str, str]]:
    """Yield (what, digest) of everything that the revision in `tree` computes."""
    corpus, first, out = (str(work / name) for name in ("corpus", "run", "results"))
    run(tree, "prepare", "table", str(manifest), "--out", corpus)
    run(tree, "pretrain", "mt4ssl_tiny", f"data.corpus={corpus}", *PRETRAIN, "--out", first)
    yield "weights after 20 updates", tensors(Path(first) / "checkpoint.pt")
    log = (Path(first) / "log.jsonl").read_text(encoding="utf-8").splitlines()
    timed = {"audio_seconds_per_second", "waiting_share"}
    rows = map(json.loads, log)
    lines = [{RENAMED.get(k, k): v for k, v in row.items() if k not in timed} for row in rows]
    yield "log of the pretraining", digest(lines)
    for task, keys in TASKS.items():
        where = ("--task", task, "--corpus", corpus, "--out", f"{out}/{task}", "--device", "cpu")
        run(tree, "evaluate", first, *HEADS, *keys, *where)
        record = next((work / "results" / task).glob("*.json"))
        values = json.loads(record.read_text(encoding="utf-8"))
        scores = {name: score["value"] for name, score in values["metrics"].items()}
        rates = [[head["lr"], head["valid"], head["chosen"]] for head in values["sweep"]]
        yield f"{task}: scores", digest([scores, rates, values["layer_weights"]])
        answers = record.with_suffix(".hyp.jsonl").read_text(encoding="utf-8")
        rows = [json.loads(line) for line in answers.splitlines()]
        names = ("id", "speaker", "reference", "hypothesis")
        yield f"{task}: answers", digest([{name: row[name] for name in names} for row in rows])


def main() -> int:
    """Compare two revisions; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revisions", nargs=2, help="of this repository, for git")
    revisions = parser.parse_args().revisions
    with tempfile.TemporaryDirectory() as folder:
        work, tables = Path(folder), []
        manifest = write_corpus(work / "tones")
        for revision in revisions:
            tree = work / f"tree-{len(tables)}"
            command = ["git", "-C", str(ROOT), "worktree", "add", "--detach", str(tree), revision]
            subprocess.run(command, check=True, capture_output=True)
            try:
                tables.append(dict(results(tree, manifest, work / f"work-{len(tables)}")))
            finally:
                remove = ["git", "-C", str(ROOT), "worktree", "remove", "--force", str(tree)]
                subprocess.run(remove, check=True, capture_output=True)
    old, new = tables
    for name, value in old.items():
        print(f"{name:32} {value} {new[name]} {'same' if value == new[name] else 'DIFFERENT'}")
    return int(old != new)


if __name__ == "__main__":
    sys.exit(main())
