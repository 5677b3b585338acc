"""From a trained head's answers to a record: metrics, hypotheses by utterance, and how they came
about.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mt4ssl_bench import results
from mt4ssl_bench.data.cut import speaker_of
from mt4ssl_bench.downstream.plan import Job, former
from mt4ssl_bench.downstream.task import Task, Trained
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.results.answers import WITH_LM, Answer, with_lm
from mt4ssl_bench.results.metrics import METRICS
from mt4ssl_bench.results.provenance import environment
from mt4ssl_bench.results.record import Result, UpstreamRecord
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
    answers = _answers(task, trained)
    metrics = task.score(answers)
    if trained.with_lm:
        again = task.score(with_lm(answers))
        metrics |= {
            f"{name}{WITH_LM}": replace(score, title=f"{score.title}{WITH_LM.upper()}")
            for name, score in again.items()
        }
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
    return result, results.save(result, answers, out)


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


def _answers(task: Task, trained: Trained) -> list[Answer]:
    cuts = trained.cuts
    speakers: Sequence[str | None] = speakers_of(cuts) or [None for _ in cuts]
    answers: list[Answer] = [
        {"id": cut.id, "speaker": speaker, "reference": reference, "hypothesis": hypothesis}
        for cut, speaker, reference, hypothesis in zip(
            cuts, speakers, task.references(cuts), trained.hypotheses, strict=True
        )
    ]
    counts = METRICS.get(task.metric).counts(answers)
    if counts is not None:
        for answer, (s, d, i, n) in zip(answers, counts.tolist(), strict=True):
            answer |= {"substitutions": s, "deletions": d, "insertions": i, "tokens": n}
    if trained.with_lm:
        for answer, text in zip(answers, trained.with_lm.hypotheses, strict=True):
            answer["with_lm"] = text
    return answers
