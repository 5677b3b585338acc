"""The table and the figure of a study, from its file and the figures of its finished runs.

    python benchmarks/convergence_report.py benchmarks/studies/targets.yaml

Reads docs/studies/<study>/*.json, writes results.md and curves.svg beside them and the study's part
of docs/convergence.md, and prints the tables. The seeds that settings are chosen with have scores
of the validation split only; the seeds of the confirmation have scores of the test split.
"""

import argparse
import json
import math
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mt4ssl_bench.config import load
from mt4ssl_bench.errors import BenchError, ConfigError
from mt4ssl_bench.registry import hint
from mt4ssl_bench.results.intervals import System, Units, mean_of, paired_difference
from mt4ssl_bench.results.over_seeds import OverSeeds, over_seeds, paired_by_seed
from mt4ssl_bench.results.record import digest

DOCS = Path(__file__).parents[1] / "docs" / "studies"
LOSSES = {
    "valid_offline": "cross entropy",
    "valid_offline_accuracy": "masked accuracy",
    "valid_online": "regression",
}
Figures = dict[str, Any]  # of one run, as convergence.py writes them


@dataclass(frozen=True, kw_only=True)
class Probe:
    """An evaluation of each checkpoint: a task recipe on a corpus, with keys that differ."""

    task: str = ""
    corpus: str = ""
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What arms are compared by.

    Attributes:
        probe: Whose main metric it is.
        reach: A score; the outcome is then the number of updates to it.
        equal: What the arms have had when they are compared at their end.
    """

    name: str = ""
    probe: str = ""
    reach: float | None = None
    equal: Literal["updates", "seconds"] = "updates"

    @property
    def title(self) -> str:
        """The outcome in words."""
        if self.reach is not None:
            return f"{self.name}: updates to {self.reach:g} on {self.probe}"
        at = "the last checkpoint" if self.equal == "updates" else "equal seconds"
        return f"{self.name}: {self.probe} at {at}"


@dataclass(frozen=True, kw_only=True)
class Study:
    """The file of a study.

    Attributes:
        about: The question.
        recipe: A pretraining recipe.
        keys: Recipe keys of all arms.
        train: Corpora that are trained on, by the names of their folders.
        arms: Recipe keys by arm; the first arm is compared with the others. "{both}" in a key is
            the run folder of the arm `both` with the same seed, which is trained first.
        seeds: With which settings are chosen, on the validation splits.
        confirm: Of the confirmation on the test splits.
        checkpoints: Updates.
        probes: By name.
        outcomes: In order; the first is the main one. Named before any run.
    """

    about: str = ""
    recipe: str = ""
    keys: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    arms: dict[str, list[str]] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    confirm: tuple[int, ...] = ()
    checkpoints: tuple[int, ...] = ()
    probes: dict[str, Probe] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)


def read_study(path: Path) -> Study:
    """Return a study; raises ConfigError for a file that is missing, wrong or incomplete."""
    if not path.is_file():
        raise ConfigError(f"study {path}: no such file")
    study = load(Study, str(path))
    needed = ("recipe", "train", "arms", "seeds", "checkpoints", "probes", "outcomes")
    if missing := [name for name in needed if not getattr(study, name)]:
        raise ConfigError(f"study {path}: has no {', '.join(missing)}")
    if list(study.checkpoints) != sorted({step for step in study.checkpoints if step > 0}):
        raise ConfigError(f"study {path}: checkpoints {study.checkpoints}: expected rising updates")
    if twice := set(study.seeds) & set(study.confirm):
        raise ConfigError(f"study {path}: seed {min(twice)} is in both `seeds` and `confirm`")
    for outcome in study.outcomes:
        if outcome.probe not in study.probes:
            raise ConfigError(
                f"study {path}: outcome '{outcome.name}': unknown probe '{outcome.probe}'; "
                f"{hint(outcome.probe, study.probes)}"
            )
    return study


def outcomes_digest(study: Study) -> str:
    """Return a digest of what was named before the runs."""
    return digest([outcome.title for outcome in study.outcomes])


def read_figures(folder: Path) -> list[Figures]:
    """Return the figures of all finished runs; raises ConfigError for a damaged file."""
    found = []
    for path in sorted(folder.glob("[!.]*.json")):
        try:
            figures = json.loads(path.read_text(encoding="utf-8"))
            found.append({**figures, "points": list(figures["points"]), "seed": figures["seed"]})
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}: damaged ({error}); restore or delete it") from None
    return found


@dataclass(frozen=True)
class Group:
    """The runs of some seeds, with scores of one split."""

    study: Study
    runs: list[Figures]
    split: Literal["valid", "test"]

    def score(self, point: Figures, probe: str) -> float | None:
        """Return the main metric of a probe at a checkpoint."""
        value = point["probes"].get(probe, {}).get("value" if self.split == "test" else "valid")
        return None if value is None else float(value)

    def curve(self, run: Figures, probe: str, by: str = "update") -> list[tuple[float, float]]:
        """Return (update or seconds, score) of the checkpoints that have a score."""
        scores = [(float(point[by]), self.score(point, probe)) for point in run["points"]]
        return [(place, score) for place, score in scores if score is not None]

    def of(self, arm: str) -> list[Figures]:
        """Return the runs of an arm."""
        return [run for run in self.runs if run["arm"] == arm]

    def last(self, arm: str, key: str) -> dict[int, float]:
        """Return a score or a loss by seed, at the last checkpoint of runs that came so far."""
        found = {}
        for run in self.of(arm):
            for point in run["points"]:
                score, loss = self.score(point, key), point["valid"].get(key)
                value = loss if score is None else score
                if point["update"] == self.study.checkpoints[-1] and value is not None:
                    found[run["seed"]] = float(value)
        return found

    def outcome(self, outcome: Outcome, arm: str) -> dict[int, float]:
        """Return an outcome by seed; a score that is not reached is infinitely late."""
        if outcome.reach is not None:
            curves = {run["seed"]: self.curve(run, outcome.probe) for run in self.of(arm)}
            return {seed: crossing(curve, outcome.reach) for seed, curve in curves.items() if curve}
        if outcome.equal == "updates":
            return self.last(arm, outcome.probe)
        ends = [run["points"][-1]["seconds"] for run in self.runs if not run["ended"]]
        curves = {run["seed"]: self.curve(run, outcome.probe, "seconds") for run in self.of(arm)}
        return {s: at(curve, min(ends)) for s, curve in curves.items() if curve and ends}

    def over_utterances(self, probe: str, arms: tuple[str, str]) -> str:
        """Return the interval of the difference of two arms over utterances, seeds held fixed."""
        runs = [
            {r["seed"]: r["utterances"][probe] for r in self.of(arm) if probe in r["utterances"]}
            for arm in arms
        ]
        shared = sorted(runs[0].keys() & runs[1].keys())
        sides = [[ratio(**side[seed]) for seed in shared] for side in runs]
        if self.split == "valid" or not shared:
            return "-"
        number = len(sides[0][0].outcomes)
        units = Units.of(map(str, range(number)))
        _, found = paired_difference(mean_of(sides[0]), mean_of(sides[1]), units)
        return f"[{found.low:.1f}, {found.high:.1f}]"


def ratio(errors: Sequence[int], tokens: Sequence[int]) -> System:
    """Return an error rate in per cent from the counts of each utterance (N,)."""
    wrong, length = np.asarray(errors, dtype=float), np.asarray(tokens, dtype=float)
    return System(
        value=100 * wrong.sum() / length.sum(),
        resampled=lambda weights: 100 * (weights @ wrong) / (weights @ length),
        outcomes=wrong / np.maximum(length, 1),
    )


def crossing(curve: Sequence[tuple[float, float]], level: float) -> float:
    """Return where a curve first falls to a level, between checkpoints linearly; inf if never."""
    for number, (place, score) in enumerate(curve):
        if score <= level:
            if number == 0:
                return place
            before, higher = curve[number - 1]
            return before + (place - before) * (higher - level) / (higher - score)
    return math.inf


def at(curve: Sequence[tuple[float, float]], place: float) -> float:
    """Return a curve's value at a place, between checkpoints linearly."""
    return float(np.interp(place, [x for x, _ in curve], [y for _, y in curve]))


def cell(found: OverSeeds | None, digits: int = 1) -> str:
    """Return a mean with its interval over seeds."""
    if found is None:
        return "-"
    if not math.isfinite(found.mean):
        return "not reached"
    if not math.isfinite(found.low):
        return f"{found.mean:.{digits}f} (one seed)"
    return f"{found.mean:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def rows(head: Sequence[str], body: Iterator[Sequence[str]]) -> str:
    lines = [head, ["--", *["--:"] * (len(head) - 1)], *body]
    cells = ([" ".join(cell.split()).replace("|", r"\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def levels(group: Group) -> Iterator[Sequence[str]]:
    for arm in group.study.arms:
        columns = [group.last(arm, key) for key in (*group.study.probes, *LOSSES)]
        means = [over_seeds(list(values.values())) if values else None for values in columns]
        digits = [1] * len(group.study.probes) + [2, 3, 2]
        yield arm, str(len(group.of(arm))), *map(cell, means, digits)


def differences(group: Group) -> Iterator[Sequence[str]]:
    first, *others = group.study.arms
    for outcome in group.study.outcomes:
        ours = group.outcome(outcome, first)
        for other in others:
            theirs = group.outcome(outcome, other)
            late = [math.inf in side.values() for side in (ours, theirs)]
            found = None if any(late) else paired_by_seed(ours, theirs)
            by_utterance = "-"
            if outcome.reach is None and outcome.equal == "updates":
                by_utterance = group.over_utterances(outcome.probe, (first, other))
            verdict = "-"
            if any(late):
                counts = [sum(map(math.isinf, side.values())) for side in (ours, theirs)]
                verdict = f"not reached by {counts[0]} and {counts[1]} runs"
            elif found and found.seeds > 1:
                told = found.low > 0 or found.high < 0
                verdict = "a difference over seeds" if told else "no difference can be told"
            seeds = str(found.seeds) if found else "0"
            yield outcome.title, f"{first} - {other}", seeds, cell(found), by_utterance, verdict


def single_runs(group: Group) -> Iterator[Sequence[str]]:
    for run in sorted(group.runs, key=lambda run: (run["arm"], run["seed"])):
        point = run["points"][-1] if run["points"] else None
        scores = []
        for probe in group.study.probes:
            found = point["probes"].get(probe, {}) if point else {}
            value = group.score(point, probe) if point else None
            text = found.get("failed", "-") if value is None else f"{value:.1f}"
            if value is not None and group.split == "test":
                text += f" [{found['low']:.1f}, {found['high']:.1f}]"
            scores.append(text)
        place = [str(point["update"]), f"{point['seconds']:.0f}"] if point else ["0", "-"]
        yield f"{run['arm']}, seed {run['seed']}", *place, *scores, run["ended"] or "finished"


def section(group: Group, title: str, *, brief: bool) -> str:
    study = group.study
    changed = [r for r in group.runs if r["outcomes"] != outcomes_digest(study)]
    numbers = sorted({number for arm in study.arms if (number := len(group.of(arm))) > 1})
    factors = [f"{over_seeds([0.0] * n).standard_errors:.1f} x SE for {n} seeds" for n in numbers]
    over = f"Student's t ({', '.join(factors)} on each side)" if factors else "none for one seed"
    notes = [f"Scores of {group.split}. 95 % intervals over seeds: {over}; differences are paired."]
    if changed:
        notes.append(f"The outcomes were changed after {len(changed)} of {len(group.runs)} runs.")
    names = [*study.probes]
    compared = ("outcome", "difference", "pairs", "over seeds", "over utterances", "verdict")
    tables = [
        rows(("arm", "runs", *names, *LOSSES.values()), levels(group)),
        rows(compared, differences(group)),
    ]
    if not brief:
        tables.append(rows(("run", "updates", "seconds", *names, "end"), single_runs(group)))
    return "\n".join([f"### {title}\n", filled(" ".join(notes)), *tables])


def report(study: Study, runs: Sequence[Figures], *, brief: bool = False) -> str:
    """Return the tables of a study in Markdown, without that of single runs if it is `brief`."""
    if not runs:
        return "No run is finished.\n"
    groups = (
        (study.seeds, "valid", "Choice" if study.confirm else "Exploratory"),
        (study.confirm, "test", "Confirmation"),
    )
    parts = []
    for seeds, split, title in groups:
        own = [run for run in runs if run["seed"] in seeds]
        if own:
            named = f"{title}: seeds {', '.join(map(str, seeds))}"
            parts.append(section(Group(study, own, split), named, brief=brief))  # type: ignore[arg-type]
    revisions = sorted({str(run["revision"])[:7] for run in runs})
    machines = sorted({run["machine"] for run in runs})
    end = (
        f"{len(runs)} runs, revisions {', '.join(revisions)}; {'; '.join(machines)}. Seconds compare "
        "within one machine only. Each probe trains one head, with the seed of its recipe."
    )
    parts.append(filled(end))
    return "\n".join(parts)


def filled(text: str) -> str:
    """Return a paragraph in lines of at most 100 columns."""
    return textwrap.fill(text, 100) + "\n"


def _curve(study: Study, run: Figures, name: str) -> dict[int, float]:
    """Return the values of a probe, or of a loss, by update."""
    group = Group(study, [run], "valid" if run["seed"] in study.seeds else "test")
    losses = {
        p["update"]: p["valid"][name] for p in run["points"] if p["valid"].get(name) is not None
    }
    return dict(group.curve(run, name)) or losses


def draw(study: Study, runs: Sequence[Figures], path: Path) -> None:
    """Draw the curves of all arms: a thin line a run, a thick one their mean."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = study.about  # the same file for the same figures
    from matplotlib import pyplot as plt

    drawn = {
        name: [(run["arm"], curve) for run in runs if (curve := _curve(study, run, name))]
        for name in [*study.probes, *LOSSES]
    }
    names = [name for name, curves in drawn.items() if curves] or list(drawn)
    figure, axes = plt.subplots(1, len(names), figsize=(3.2 * len(names), 3), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        for number, arm in enumerate(study.arms):
            curves = [curve for of, curve in drawn[name] if of == arm]
            for curve in curves:
                axis.plot(curve.keys(), curve.values(), color=f"C{number}", lw=0.6)
            shared = sorted(set.intersection(*map(set, curves))) if curves else []
            means = [float(np.mean([curve[x] for curve in curves])) for x in shared]
            axis.plot(shared, means, color=f"C{number}", lw=2, label=arm)
        axis.set(title=LOSSES.get(name, name), xlabel="updates")
    axes[0][-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))  # beside all curves
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def write_report(path: Path, docs: Path) -> str:
    """Write results.md and curves.svg of a study, and its part of the page; return the tables."""
    study, folder = read_study(path), docs / path.stem
    runs = [run for run in read_figures(folder) if run["arm"] in study.arms]
    text = report(study, runs)
    if runs:
        draw(study, runs, folder / "curves.svg")
        head = f"# Results of {path.stem}\n\n{filled(study.about)}\n![curves](curves.svg)\n\n"
        (folder / "results.md").write_text(head + text, encoding="utf-8")
    page = docs.parent / "convergence.md"
    if page.exists():
        start, end = f"<!-- study: {path.stem} -->\n", "<!-- end -->"
        before, found, after = page.read_text(encoding="utf-8").partition(start)
        after = after.partition(end)[2]
        if found:
            link = f"\n[Single runs and curves](studies/{path.stem}/results.md)\n" if runs else ""
            new = f"{before}{found}\n{report(study, runs, brief=True)}{link}\n{end}{after}"
            page.write_text(new, encoding="utf-8")
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path, help="its YAML file")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the studies' figures")
    arguments = parser.parse_args()
    try:
        print(write_report(arguments.study, arguments.docs))
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
