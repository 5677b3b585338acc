"""Seconds and bytes of a report: `python benchmarks/report_size.py`.

Makes records of 20 models on 10 corpora, 300 utterances each, and logs of training, in a temporary
folder, and writes their report as the command does, in another process.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mt4ssl_bench.results import record_files
from mt4ssl_bench.results.answers import Answer
from mt4ssl_bench.results.metrics import METRICS
from mt4ssl_bench.results.record import Result

MODELS, UTTERANCES, LAYERS = 20, 300, 13
WORDS = [f"word{number}" for number in range(200)]


def write_records(folder: Path, number: int) -> None:
    """Write records of speech recognition, with the errors of a random system."""
    rng = random.Random(0)  # noqa: S311
    spoken = [rng.choices(WORDS, k=20) for _ in range(UTTERANCES)]
    for index in range(number):
        corpus, model = divmod(index, MODELS)
        answers = [answer(f"u{i}", words, rng, model) for i, words in enumerate(spoken)]
        score = METRICS.get("wer").score(answers)
        counts = METRICS.get("wer").counts(answers)
        for each, (s, d, i, n) in zip(answers, counts.tolist(), strict=True):
            each |= {"substitutions": s, "deletions": d, "insertions": i, "tokens": n}
        record_files.save(record(f"model-{model:02}", corpus, score, rng), answers, folder)


def answer(name: str, words: list[str], rng: random.Random, model: int) -> Answer:
    """Return the answer of a model to an utterance of these words."""
    errors = 0.1 + model / 50
    heard = [rng.choice(WORDS) if rng.random() < errors else word for word in words]
    texts = {"reference": " ".join(words), "hypothesis": " ".join(heard)}
    return {"id": name, "speaker": None, **texts}


def record(model: str, corpus: int, score: object, rng: random.Random) -> Result:
    """Return a record of a model with 13 hidden states."""
    weights = [rng.random() for _ in range(LAYERS)]
    sweep = [
        {"lr": lr, "seed": 0, "valid": rng.uniform(5, 90), "steps": 1000, "chosen": lr == 1e-3}
        for lr in (1e-2, 1e-3, 1e-4)
    ]
    return Result(
        task="asr",
        task_version=1,
        mode="frozen",
        upstream={
            "name": model,
            "fingerprint": model,
            "parameters": 1_000_000 * int(model[-2:]),
            "num_layers": LAYERS,
            "dim": 768,
            "stride": 320,
        },
        corpus={
            "name": f"corpus{corpus}",
            "digest": f"digest-{corpus}",
            "languages": ["en"],
            "synthetic": False,
            "splits": {"test": {"utterances": UTTERANCES, "hours": 1.0}},
        },
        main_metric="wer",
        metrics={"wer": score},
        layer_weights=[weight / sum(weights) for weight in weights],
        layer_norms=weights,
        recipe_name="asr",
        recipe={"task": "asr"},
        seeds=[0],
        limit=None,
        sweep=sweep,
        versions={"torch": "2.11.0"},
        git=None,
        device="cpu",
        wall_seconds={"train": 100.0},
        counts={"test_utterances": UTTERANCES},
        created=f"2026-01-01T00:{corpus:02}:{int(model[-2:]):02}+00:00",
        scheme=2,
    )


def write_runs(folder: Path, number: int, lines: int) -> None:
    """Write run folders, whose log has a validation after every tenth line."""
    rng = random.Random(0)  # noqa: S311
    for index in range(number):
        run = folder / f"model-{index:02}"
        run.mkdir(parents=True)
        config = {"encoder": {}, "targets": {}, "fit": {"steps": 200 * lines}}
        (run / "config.json").write_text(json.dumps(config))
        with (run / "log.jsonl").open("w") as log:
            for step in range(200, 200 * lines + 1, 200):
                log.write(json.dumps(log_line(step, rng)) + "\n")
                if step % 2000 == 0:
                    valid = {"step": step, "valid_offline": 4.0, "valid_online": rng.random()}
                    log.write(json.dumps(valid) + "\n")


def log_line(step: int, rng: random.Random) -> dict[str, float]:
    """Return a line as pretraining logs it."""
    names = ("offline", "online", "offline_accuracy", "online_target_var", "online_pred_var")
    values = {name: round(rng.random(), 6) for name in names}
    speed = {"audio_seconds_per_second": rng.uniform(50, 60), "waiting_share": 0.01}
    rest = {"lr": 5e-4, "online_ema_decay": 0.999, "seconds": step * 0.5}
    return {"step": step, "epoch": 0, **values, **speed, **rest, "audio_hours": step / 100}


def main() -> None:
    """Print the seconds and megabytes of one report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--records", type=int, default=200)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--lines", type=int, default=2000, help="of each run's log")
    args = parser.parse_args()
    records, runs, lines = args.records, args.runs, args.lines
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_records(folder / "results", records)
        write_runs(folder / "runs", runs, lines)
        out = folder / "report.html"
        command = [sys.executable, "-m", "mt4ssl_bench", "report", folder / "results"]
        began = time.perf_counter()
        subprocess.run([*map(str, command), str(folder / "runs"), "--out", str(out)], check=True)
        seconds, size = time.perf_counter() - began, out.stat().st_size / 1e6
    print(f"{records} records, {runs} runs of {lines} lines: {seconds:.1f} s, {size:.2f} MB")


if __name__ == "__main__":
    main()
