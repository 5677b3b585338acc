"""Wall time and metric of one frozen evaluation, by s3prl's own SuperbPR, SID or KS and by ours.

    python benchmarks/evaluate_vs_s3prl.py runs/mt4ssl_tiny corpora/speechocean762 --passes 20
    python benchmarks/evaluate_vs_s3prl.py runs/mt4ssl_tiny corpora/speechcommands --task keyword

The same upstream (through s3prl's hub there), utterances, head, learning rate, optimiser, batch,
accumulation and number of updates; both validate five times, keep the best and score the test
split. Of s3prl's recipes only prepare_data() is overridden, to name the corpus's files, and
evaluate() is timed. SuperbKS's sox effect is a stand-in where torchaudio has none (2.9 and later).
Ours runs first, so that the disk is warm for theirs. Needs the [s3prl] extra. Where other processes
run, which the first line says, the times are no measurement.
"""

import argparse
import contextlib
import csv
import importlib.util
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torchaudio
import yaml
from torch import Tensor

from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.downstream.evaluate import evaluate
from mt4ssl_bench.downstream.heads.labels import LabelTask
from mt4ssl_bench.downstream.job import Job
from mt4ssl_bench.downstream.plan import plan
from mt4ssl_bench.encoders import s3prl_programs
from mt4ssl_bench.upstream.expert import register

VALIDATIONS = 5
FAR = 100  # passes that the ratio is extrapolated to: SUPERB's full recipes make 46 to 112
QUIET = 0.3  # load average up to which nothing else runs
LR = 1e-2


@dataclass(frozen=True)
class Recipe:
    """A problem of s3prl's with SUPERB's batch, whatever the small recipes here say.

    Attributes:
        keys: For our side.
        roots: Keys of prepare_data that name folders.
    """

    problem: str
    metric: str
    batch: int
    accumulate: int
    keys: tuple[str, ...] = ()
    roots: tuple[str, ...] = ("dataset_root",)


RECIPES = {
    "phoneme": Recipe("SuperbPR", "per", 16, 2),
    "speaker": Recipe(
        "SuperbSID", "accuracy", 8, 4, keys=("crop_seconds=8", "test_crop_seconds=0")
    ),
    "keyword": Recipe("SuperbKS", "accuracy", 32, 1, roots=("gsc1", "gsc1_test")),
}


@dataclass(frozen=True)
class Side:
    """Metric of one side, and its seconds: in all, and per training pass beyond the first."""

    seconds: float
    per_pass: float
    value: float  # per cent
    low: float = 0.0
    high: float = 0.0

    def at(self, passes: float, measured: float) -> float:
        """Return the seconds at another number of passes; validations and test stay as they are."""
        return self.seconds + (passes - measured) * self.per_pass


def main() -> None:
    """Run both sides of each task and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("upstream", type=Path, help="an MT4SSL run folder or checkpoint")
    parser.add_argument("corpus", type=Path, help="a prepared corpus that all the tasks can use")
    parser.add_argument(
        "--task", choices=list(RECIPES), action="append", help="default: phoneme and speaker"
    )
    parser.add_argument("--passes", type=float, default=20, help="passes over the training audio")
    parser.add_argument("--limit", type=int, help="utterances per split")
    parser.add_argument("--workers", type=int, default=1, help="s3prl's loader processes")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="of torch, on both sides"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if (load := os.getloadavg()[0]) > QUIET:
        print(f"load average {load:.1f}: other processes run; the times are no measurement")
    scratch = Path(tempfile.mkdtemp(prefix="evaluate_vs_s3prl_"))
    try:
        for task in options.task or ("phoneme", "speaker"):
            compare(task, options, scratch)
    finally:
        shutil.rmtree(scratch)


def compare(task: str, options: argparse.Namespace, scratch: Path) -> None:
    """Run one task on both sides and print what came."""
    recipe = RECIPES[task]
    batch, accumulate = recipe.batch, recipe.accumulate
    keys = [f"batch={batch}", f"accumulate={accumulate}", f"sweep=[{LR}]", *recipe.keys]
    job = plan(task, Corpus.open(options.corpus), keys, options.limit)
    count = len(job.cuts("train"))
    every = max(round(options.passes * count / batch / accumulate / VALIDATIONS), 1)
    steps = every * VALIDATIONS
    passes = steps * batch * accumulate / count
    keys += [f"steps={steps}", f"validate_every={every}"]
    print(
        f"{task}: {count} training utterances, {steps} updates of {accumulate} x {batch}: "
        f"{passes:.1f} passes",
        flush=True,
    )
    ours = run_ours(task, keys, options, scratch / f"{task}_ours", passes)
    print(
        f"  ours   {ours.seconds:8.1f} s  {ours.value:.2f} % [{ours.low:.2f}, {ours.high:.2f}]",
        flush=True,
    )
    overrides = {
        "build_batch_sampler.train.batch_size": batch,
        "build_optimizer.conf.lr": LR,
        "train.gradient_accumulate": accumulate,
        "train.total_steps": steps,
        "train.eval_step": every,
        "train.save_step": every,
        "train.log_step": every,
        "num_workers": options.workers,
    }
    theirs = run_theirs(recipe, job, options.upstream, overrides, scratch / f"{task}_s3prl", passes)
    inside = "inside" if ours.low <= theirs.value <= ours.high else "outside"
    print(f"  s3prl  {theirs.seconds:8.1f} s  {theirs.value:.2f} %, {inside} our 95 % interval")
    print(f"  ratio  {theirs.seconds / ours.seconds:8.1f}")
    print(
        f"  extrapolated to {FAR} passes from the measured cost of a pass there "
        f"({theirs.per_pass:.2f} s) and of the head here ({ours.per_pass:.2f} s): ratio "
        f"{theirs.at(FAR, passes) / ours.at(FAR, passes):.1f}",
        flush=True,
    )


def run_ours(
    task: str, keys: list[str], options: argparse.Namespace, out: Path, passes: float
) -> Side:
    """Evaluate through this toolkit, from nothing stored."""
    began = time.perf_counter()
    done = evaluate(
        [str(options.upstream)],
        [task],
        options.corpus,
        out=out,
        overrides=keys,
        device="cpu",
        limit=options.limit,
    )
    seconds = time.perf_counter() - began
    if done.failures:
        raise SystemExit("; ".join(done.failures))
    (result,) = done.results
    found = result.metrics[result.main_metric]
    print(
        "         " + ", ".join(f"{name} {lap:.1f} s" for name, lap in result.wall_seconds.items())
    )
    return Side(seconds, result.wall_seconds["train"] / passes, found.value, found.low, found.high)


def run_theirs(
    recipe: Recipe,
    job: Job,
    upstream: Path,
    overrides: dict[str, Any],
    out: Path,
    passes: float,
) -> Side:
    """Run one of s3prl's problems, from nothing cached."""
    register()
    s3prl_programs.bridge()
    if importlib.util.find_spec("torchaudio.sox_effects") is None:
        torchaudio.sox_effects = SimpleNamespace(apply_effects_tensor=gain)
    from s3prl import problem as problems

    base = getattr(problems, recipe.problem)
    evaluating = 0.0

    class OnOurCorpus(base):  # type: ignore[misc, valid-type]
        """s3prl's recipe with our corpus's files."""

        def prepare_data(self, *_: Any, get_path_only: bool = False) -> Any:  # noqa: ANN401
            return table_paths(out) if get_path_only else write_tables(job, out)

        def evaluate(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            nonlocal evaluating
            began = time.perf_counter()
            logs = super().evaluate(*args, **kwargs)
            evaluating += time.perf_counter() - began
            return logs

    overrides |= {
        "target_dir": out,
        "cache_dir": out / "cache",
        "device": "cpu",
        **{f"prepare_data.{root}": job.corpus.root for root in recipe.roots},
        "build_upstream.name": "mt4ssl_local",
        "build_upstream.path_or_url": upstream.resolve(),
    }
    arguments = [str(part) for key, value in overrides.items() for part in (f"--{key}", value)]
    out.mkdir(parents=True)
    began = time.perf_counter()
    with quiet(out / "log"):
        OnOurCorpus().main(arguments)
    seconds = time.perf_counter() - began
    (file,) = out.glob("evaluate/*/*/result.yaml")
    found = yaml.safe_load(file.read_text(encoding="utf-8"))[recipe.metric]
    print(
        f"         training {seconds - evaluating:.1f} s, validations and test {evaluating:.1f} s"
    )
    return Side(seconds, (seconds - evaluating) / passes, 100 * found)


def gain(wave: Tensor, rate: int, effects: Sequence[Sequence[str]]) -> tuple[Tensor, int]:
    """Apply SUPERB's sox effects for KS to audio that is mono at 16 kHz: only the gain is left."""
    (decibels,) = [float(values[0]) for name, *values in effects if name == "gain"]
    return wave * 10 ** (decibels / 20), rate


def table_paths(folder: Path) -> tuple[Path, Path, list[Path]]:
    """Return where s3prl looks for its tables."""
    return folder / "train.csv", folder / "valid.csv", [folder / "test.csv"]


def write_tables(job: Job, folder: Path) -> tuple[Path, Path, list[Path]]:
    """Write s3prl's tables of the utterances that our side reads.

    Columns: id, wav_path, transcription or label, and for crops of a noise, start and end.
    """
    train, valid, tests = table_paths(folder)
    task = job.kind(job.config)
    column = "label" if isinstance(task, LabelTask) else "transcription"
    for path, name in ((train, "train"), (valid, "valid"), (tests[0], "test")):
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["id", "wav_path", column, "start_sec", "end_sec"])
            for cut in job.cuts(name):
                whole = abs(cut.duration - cut.recording.duration) < 1e-4
                place = ["", ""] if whole else [cut.start, cut.start + cut.duration]
                source = cut.recording.sources[0].source
                rows.writerow([cut.id, source, task.reference(cut), *place])
    return train, valid, tests


@contextlib.contextmanager
def quiet(log: Path) -> Iterator[None]:
    """Send what s3prl prints to a file."""
    file = log.open("w", encoding="utf-8")  # stays open: its loggers keep it
    with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        yield


if __name__ == "__main__":
    main()
