"""From a trained head's answers to a record: metrics, hypotheses by utterance, and how they came
about.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mt4ssl_bench import results
from mt4ssl_bench.data.cut import speaker_of
from mt4ssl_bench.downstream.plan import Job, former
from mt4ssl_bench.downstream.task import Task, Trained
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.results.metrics import METRICS, Score
from mt4ssl_bench.results.provenance import environment
from mt4ssl_bench.results.record import Hypothesis, Result, UpstreamRecord
from mt4ssl_bench.settings import nest


class Clock:
    """Wall time by stage."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str, seconds: float | None = None) -> None:
        """End the stage called `name`; `seconds` is what it took, where interrupted calls count
        too.
        """
        now = time.monotonic()
        self.laps[name] = round(now - self._last if seconds is None else seconds, 2)
        self._last = now


def write_record(
    model: Upstream,
    job: Job,
    task: Task,
    trained: Trained,
    *,
    counts: dict[str, int],
    device: str,
    clock: Clock,
    out: Path,
) -> tuple[Result, Path]:
    """Score the answers on test, and write record and hypotheses into `out`.

    Returns the record and its path.
    """
    rows = _hypotheses(task, trained)
    metrics = _scores(task, [(row["reference"], row["hypothesis"]) for row in rows], trained.cuts)
    if trained.with_lm:
        again = _scores(task, [(row["reference"], row["with_lm"]) for row in rows], trained.cuts)
        metrics |= {f"{name}+lm": score for name, score in again.items()}
    clock.lap("test")
    made_with = environment()
    result = Result(
        task=task.name,
        task_version=task.version,
        upstream=_upstream(model),
        corpus=_corpus(job),
        main_metric=task.metric,
        metrics=metrics,
        recipe_name=job.recipe,
        recipe=nest(job.config.settings()),
        scheme=results.SCHEME,
        settings=job.config.identity(),
        sweep=trained.trials,
        layer_weights=trained.layer_weights,
        layer_norms=trained.layer_norms,
        seeds=list(job.config.seeds),
        limit=job.limit,
        mode=job.config.mode,
        versions=made_with["versions"],
        git=made_with["git"],
        device=device,
        wall_seconds=clock.laps,
        counts={**counts, **trained.counts},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        lm_weights=trained.with_lm.weights if trained.with_lm else {},
    )
    return result, results.save(result, rows, out)


def speakers_of(cuts: Sequence[Any]) -> list[str] | None:
    """Return the speaker of each cut, or None where not every cut has one."""
    speakers = [speaker_of(cut) for cut in cuts]
    return speakers if all(speakers) else None


def _upstream(model: Upstream) -> UpstreamRecord:
    return {
        "name": model.name,
        "fingerprint": model.fingerprint,
        "parameters": model.parameters,
        "num_layers": model.num_layers,
        "dim": model.dim,
        "stride": model.stride,
        "former": former(model),
    }


def _corpus(job: Job) -> results.CorpusRecord:
    info = job.corpus.info
    used = {role: info.splits[job.split(role)] for role in ("train", "valid", "test")}
    return {
        "name": info.name,
        "digest": info.digest,
        "languages": info.languages,
        "synthetic": info.synthetic,
        "splits": {
            role: {"utterances": split.utterances, "hours": split.hours}
            for role, split in used.items()
        },
    }


def _scores(task: Task, pairs: Sequence[tuple[str, str]], cuts: Sequence[Any]) -> dict[str, Score]:
    references, hypotheses = map(list, zip(*pairs, strict=True))
    return task.score(references, hypotheses, speakers_of(cuts))


def _hypotheses(task: Task, trained: Trained) -> list[Hypothesis]:
    hypotheses, cuts = trained.hypotheses, trained.cuts
    references = task.references(cuts)
    counts = METRICS[task.metric].counts(references, hypotheses).tolist()
    speakers: Sequence[str | None] = speakers_of(cuts) or [None for _ in cuts]
    rows: list[Hypothesis] = [
        {
            "id": cut.id,
            "speaker": speaker,
            "reference": reference,
            "hypothesis": hypothesis,
            "substitutions": s,
            "deletions": d,
            "insertions": i,
            "tokens": n,
        }
        for cut, speaker, reference, hypothesis, (s, d, i, n) in zip(
            cuts, speakers, references, hypotheses, counts, strict=True
        )
    ]
    if trained.with_lm:
        for row, text in zip(rows, trained.with_lm.hypotheses, strict=True):
            row["with_lm"] = text
    return rows
