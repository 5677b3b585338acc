"""A study from one file: recipes x seeds x checkpoints x probes, one table and one figure.

    python benchmarks/convergence.py benchmarks/studies/targets.yaml --check
    python benchmarks/convergence.py benchmarks/studies/targets.yaml --minutes 40

Trains every arm with every seed, probes each checkpoint, and writes the figures of each finished
run to docs/studies/<study>/<arm>-<seed>.json, and the table and the figure of all finished runs
beside them. Commit these files: the study goes on from them on another machine. Rerun the same
command to continue an interrupted study.

--confirm trains the seeds of the confirmation, once the settings are chosen with the others.
"""

import argparse
import json
import platform
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import torch
from convergence_report import DOCS, Figures, Study, outcomes_digest, read_figures, read_study
from convergence_report import write_report as write_tables

from mt4ssl_bench import checkpoint, results
from mt4ssl_bench.console import setup_logging
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.device import pick_device
from mt4ssl_bench.downstream.evaluate import evaluate_jobs
from mt4ssl_bench.downstream.job import Job
from mt4ssl_bench.downstream.plan import plan
from mt4ssl_bench.errors import INTERRUPTED, BenchError, ConfigError, TrainingError, first_line
from mt4ssl_bench.files import write_text
from mt4ssl_bench.registry import hint
from mt4ssl_bench.results.provenance import environment
from mt4ssl_bench.results.record import digest
from mt4ssl_bench.training.distributed import World
from mt4ssl_bench.upstream.checkpoints.checkpoint_file import KIND, student
from mt4ssl_bench.upstream.config import PretrainConfig
from mt4ssl_bench.upstream.model import MT4SSL
from mt4ssl_bench.upstream.offline_labels import kmeans
from mt4ssl_bench.upstream.pretrain import Pretraining, open_pretraining
from mt4ssl_bench.upstream.recipe import load_config, to_stored

CLOCKS = ("step", "epoch", "seconds", "audio_hours", "lr")


class PausedError(Exception):
    """The time is up, or somebody stopped the study; the same command continues."""


@dataclass(frozen=True)
class Place:
    """Where a study reads and writes.

    Attributes:
        corpora: Folder of the corpora.
        work: Folder of runs, labels and records, which are not committed.
        figures: Folder of the figures of this study.
    """

    corpora: Path
    work: Path
    figures: Path


@dataclass(frozen=True)
class Machine:
    """What trains and probes, until `deadline` (of time.monotonic)."""

    study: Study
    place: Place
    device: str
    deadline: float

    def keys(self, arm: str, seed: int, needed: Mapping[str, str] | None = None) -> list[str]:
        """Return the recipe keys of a run; `needed` are the folders of other arms' runs."""
        corpora = ",".join(str(self.place.corpora / name) for name in self.study.train)
        spacing = min(self.study.checkpoints)
        every = [f"fit.{what}_every={spacing}" for what in ("log", "validate")]
        fixed = [f"data.corpus={corpora}", f"fit.seed={seed}", *every]
        own = [*self.study.keys, f"fit.steps={self.study.checkpoints[-1]}", *self.study.arms[arm]]
        folders = {name: str(self.run_folder(name, seed)) for name in self.study.arms}
        return [*fixed, *(key.format_map(needed or folders) for key in own)]

    def config(self, arm: str, seed: int) -> PretrainConfig:
        """Return the config of a run."""
        return load_config(self.study.recipe, self.keys(arm, seed))

    def needs(self, arm: str) -> list[str]:
        """Return the arms whose runs are trained before this one's."""
        return [n for n in self.study.arms if any(f"{{{n}}}" in k for k in self.study.arms[arm])]

    def run_folder(self, arm: str, seed: int) -> Path:
        """Return the folder of a run."""
        return self.place.work / "runs" / f"{arm}-{seed}".replace(" ", "-")

    def settings(self, arm: str, seed: int) -> str:
        """Return a digest of all that the figures of a run depend on, but for the machine."""
        needed = {n: self.settings(n, seed) if n in self.needs(arm) else n for n in self.study.arms}
        config = to_stored(load_config(self.study.recipe, self.keys(arm, seed, needed)))
        data = [self.corpora[name] for name in self.study.train]
        config = {**config, "about": "", "data": {**config["data"], "corpus": data}}  # type: ignore[dict-item]
        probes = {
            n: [j.recipe, j.config.identity(), j.corpus.info.digest] for n, j in self.jobs.items()
        }
        return digest([config, list(self.study.checkpoints), probes])

    @cached_property
    def corpora(self) -> dict[str, str]:
        """The digests of the corpora that are trained on or probed."""
        names = {*self.study.train, *(probe.corpus for probe in self.study.probes.values())}
        return {n: Corpus.open(self.place.corpora / n).info.digest for n in sorted(names)}

    def probe_job(self, name: str) -> Job:
        """Return a checked probe."""
        probe = self.study.probes[name]
        return plan(probe.task, Corpus.open(self.place.corpora / probe.corpus), probe.keys)

    @cached_property
    def jobs(self) -> dict[str, Job]:
        """The checked probes."""
        return {name: self.probe_job(name) for name in self.study.probes}

    def check(self) -> None:
        """Raise BenchError for any entry that is wrong, before anything is trained."""
        order = list(self.study.arms)
        for arm, keys in self.study.arms.items():
            for name in (part.partition("}")[0] for key in keys for part in key.split("{")[1:]):
                if name not in order[: order.index(arm)]:
                    known = order[: order.index(arm)]
                    raise ConfigError(
                        f"arm '{arm}': {{{name}}} is no arm above it; {hint(name, known)}"
                    )
            try:
                config = self.config(arm, 0)
                MT4SSL(config)
            except BenchError as error:
                raise ConfigError(f"arm '{arm}': {error}") from None
            spacing = min(self.study.checkpoints)
            if odd := [step for step in self.study.checkpoints if step % spacing]:
                raise ConfigError(f"checkpoints: {odd[0]} is no multiple of {spacing}, the first")
            for name in self.study.train:
                for split in (config.data.train, config.data.valid):
                    Corpus.open(self.place.corpora / name).cuts(split)
        for name in self.study.probes:
            try:
                self.probe_job(name)
            except BenchError as error:
                raise ConfigError(f"probe '{name}': {error}") from None
        self.check_finished()

    def check_finished(self) -> None:
        """Raise ConfigError if a finished run had other settings: no study mixes two of them."""
        others = [
            run
            for run in read_figures(self.place.figures)
            if run["arm"] in self.study.arms
            and run["settings"] != self.settings(run["arm"], run["seed"])
        ]
        if not others:
            return
        first, theirs = others[0], others[0].get("corpora", {})
        why = "other corpora or keys"
        if differ := [n for n, digest in self.corpora.items() if theirs.get(n, digest) != digest]:
            why = f"corpus '{differ[0]}' was {theirs[differ[0]]}, is {self.corpora[differ[0]]}"
        raise ConfigError(
            f"{self.place.figures}: {len(others)} finished runs had other settings, such as "
            f"{first['arm']}, seed {first['seed']} ({why}); give the study the same, or move "
            "their files away to train them again"
        )

    # ---- training ----

    def labels(self, arm: str, seed: int) -> tuple[list[str], float]:
        """Create the labels of a run; return the keys that name them, and the seconds they took."""
        config = self.config(arm, seed)
        if not config.targets.offline.weight or config.targets.offline.labels:
            return [], 0.0
        offline = {**to_stored(config)["targets"]["offline"], "weight": 1}  # type: ignore[call-overload, index]
        folder = self.place.work / "labels" / digest([offline, seed])
        clock = folder.with_suffix(".seconds")
        spent = float(clock.read_text()) if clock.exists() else 0.0
        if not (folder / "labels.json").exists():
            began = time.monotonic()
            try:
                kmeans(self.study.recipe, *self.keys(arm, seed), out=folder, device=self.device)
            finally:  # an interrupted k-means goes on from its finished parts
                spent += time.monotonic() - began
                write_text(clock, str(spent))
        return [f"targets.offline.labels={folder}"], spent

    def train(self, arm: str, seed: int) -> tuple[str, float]:
        """Train a run to its end; return why it ended early, or "", and the seconds before it.

        Raises:
            PausedError: If it was stopped; it continues from there.
        """
        before = 0.0
        for name in self.needs(arm):
            _, earlier = self.train(name, seed)
            before += earlier + last_line(self.run_folder(name, seed)).get("seconds", 0.0)
        named, seconds = self.labels(arm, seed)
        folder = self.run_folder(arm, seed)
        failed = folder / "failed.txt"
        if not failed.exists():
            config = load_config(self.study.recipe, [*self.keys(arm, seed), *named])
            try:
                report = self.watched(open_pretraining(config), folder).run(folder)
            except TrainingError as error:  # it diverged or collapsed: a result as any other
                write_text(failed, first_line(error))
            else:
                if not report.finished:
                    raise PausedError
        reason = failed.read_text(encoding="utf-8") if failed.exists() else ""
        return reason, before + seconds

    def watched(self, job: Pretraining, folder: Path) -> Pretraining:
        """Return the run, which keeps its student at checkpoints, and stops when the time is up."""
        validate = job.validate

        def look(step: int) -> dict[str, float]:
            values = validate(step)
            if step in self.study.checkpoints:
                kept = {"kind": KIND, "config": to_stored(job.config), "corpus_digest": job.digest}
                weights = student(job.model.state_dict())
                checkpoint.save({**kept, "model": weights}, snapshot(folder, step))
            if time.monotonic() > self.deadline and step < job.config.fit.steps:
                signal.raise_signal(signal.SIGTERM)  # saves after this update, as for anybody's
            return values

        job.validate = look  # type: ignore[method-assign]
        return job

    # ---- probing ----

    def probe(self, source: Path) -> dict[str, Figures]:
        """Return the scores of all probes of a checkpoint; a probe that fails has a reason."""
        found: dict[str, Figures] = {}
        for name, job in self.jobs.items():
            if time.monotonic() > self.deadline:
                raise PausedError
            records, store = self.place.work / "results", self.place.work / "store"
            world = World(device=pick_device(self.device))
            outcome = evaluate_jobs([str(source)], [job], records, store, world)
            if outcome.failures:
                found[name] = {"failed": outcome.failures[0].partition(": ")[2]}
                continue
            (record,) = outcome.results
            score = record.main
            chosen = next((trial for trial in record.sweep if trial["chosen"]), None)
            numbers = {"value": score.value, "low": score.low, "high": score.high}
            found[name] = {"metric": record.main_metric, **numbers}
            found[name]["valid"] = chosen["valid"] if chosen else None
            answers = results.load_hypotheses(results.record_path(record, records))
            if all("tokens" in answer for answer in answers):
                wrong = ("substitutions", "deletions", "insertions")
                found[name]["utterances"] = {
                    "errors": [sum(a[kind] for kind in wrong) for a in answers],  # type: ignore[literal-required]
                    "tokens": [a["tokens"] for a in answers],
                }
        shutil.rmtree(self.place.work / "store", ignore_errors=True)
        return found

    def run(self, arm: str, seed: int) -> Figures:
        """Train and probe a run; return its figures."""
        ended, before = self.train(arm, seed)
        folder, points = self.run_folder(arm, seed), []
        lines = list(log_lines(folder))
        for step in self.study.checkpoints:
            if not snapshot(folder, step).exists():
                break
            own = [line for line in lines if line["step"] == step]
            logged = next(line for line in own if "seconds" in line)
            valid = next(line for line in own if "seconds" not in line)
            points.append(
                {
                    "update": step,
                    "seconds": before + logged["seconds"],
                    "audio_hours": logged["audio_hours"],
                    "log": {k: v for k, v in logged.items() if k not in CLOCKS},
                    "valid": {k: v for k, v in valid.items() if k not in CLOCKS},
                    "probes": self.probe(snapshot(folder, step).parent),
                }
            )
        counts = [{n: p.pop("utterances", None) for n, p in at["probes"].items()} for at in points]
        main = self.study.outcomes[0].probe
        last = counts[-1].get(main) if counts and not ended else None
        return {
            "arm": arm, "seed": seed, "ended": ended, "settings": self.settings(arm, seed),
            "outcomes": outcomes_digest(self.study), "revision": environment()["git"],
            "machine": machine(), "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds_before": before, "corpora": self.corpora, "points": points,
            "utterances": {main: last} if last else {},
        }  # fmt: skip

    def finish(self, seeds: tuple[int, ...]) -> None:
        """Make the figures of every run that has none; raises PausedError when it is stopped."""
        done = {figures["settings"]: figures for figures in read_figures(self.place.figures)}
        # runs of another study with the same settings need no second training
        for folder in self.place.figures.parent.glob("*/"):
            done |= {f["settings"]: f for f in read_figures(folder)} | done
        runs = [(arm, seed) for seed in seeds for arm in self.study.arms]
        known = [run for run in runs if self.settings(*run) in done]
        moved = sum(not self.run_folder(*run).exists() for run in known)
        print(
            f"{len(known)} of {len(runs)} runs are finished, {moved} of them not made here: the "
            f"study goes on from the figures in {self.place.figures.parent}"
        )
        for arm, seed in runs:  # seed by seed, so that arms can be paired early
            figures = done.get(self.settings(arm, seed))
            if figures is None:
                print(f"{arm}, seed {seed}", flush=True)
                figures = self.run(arm, seed)
            text = json.dumps(rounded({**figures, "arm": arm}), separators=(",", ":"))
            path = self.place.figures / f"{self.run_folder(arm, seed).name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text.replace('{"update"', '\n{"update"') + "\n")


def snapshot(run: Path, step: int) -> Path:
    """Return the file of the student at a checkpoint."""
    return run / f"at-{step}" / "checkpoint.pt"


def log_lines(run: Path) -> Iterator[Figures]:
    """Yield the lines of a run's log."""
    yield from map(json.loads, (run / "log.jsonl").read_text(encoding="utf-8").splitlines())


def last_line(run: Path) -> Figures:
    """Return the last training line of a run's log."""
    return [line for line in log_lines(run) if "seconds" in line][-1]


def machine() -> str:
    """Return the name of this machine's processor, with the threads that torch uses."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{[*names, platform.machine()][0]}, {torch.get_num_threads()} threads"


def rounded(value: object) -> object:
    """Return containers with numbers of six digits."""
    if isinstance(value, dict):
        return {name: rounded(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [rounded(entry) for entry in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path, help="its YAML file")
    parser.add_argument("--corpora", type=Path, default=Path("corpora"), help="their folder")
    parser.add_argument("--work", type=Path, default=Path("study"), help="of runs and records")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the studies' figures")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop cleanly after")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--check", action="store_true", help="check the study, train nothing")
    parser.add_argument("--confirm", action="store_true", help="the seeds of the confirmation")
    parser.add_argument("--seeds", type=int, nargs="+", help="only these seeds, in this order")
    arguments = parser.parse_args()
    setup_logging(verbose=False)
    deadline = time.monotonic() + 60 * arguments.minutes
    try:
        study, name = read_study(arguments.study), arguments.study.stem
        place = Place(arguments.corpora, arguments.work / name, arguments.docs / name)
        job = Machine(study, place, arguments.device, deadline)
        job.check()
        seeds = study.confirm if arguments.confirm else study.seeds
        seeds = tuple(arguments.seeds or seeds)
        if unknown := set(seeds) - {*study.seeds, *study.confirm}:
            known = ", ".join(map(str, (*study.seeds, *study.confirm)))
            raise ConfigError(f"--seeds {min(unknown)}: expected some of {known}")
        print(f"{name}: {len(study.arms)} arms x {len(seeds)} seeds, all entries are right")
        if arguments.check:
            return 0
        try:
            job.finish(seeds)
        except (PausedError, KeyboardInterrupt):
            print("stopped; what was complete is kept, and the same command continues")
            return INTERRUPTED
        finally:
            print(write_tables(arguments.study, arguments.docs))
    except BenchError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
