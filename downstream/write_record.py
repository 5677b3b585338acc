"""From predictions on the test split to a record: metrics, answers, and how they were computed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from mt4ssl_bench import results
from mt4ssl_bench.downstream.clock import Clock
from mt4ssl_bench.downstream.find_record import former
from mt4ssl_bench.downstream.job import Job
from mt4ssl_bench.downstream.layers.score_task import LayerResult
from mt4ssl_bench.downstream.task import Task, Trained
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.files import write_text
from mt4ssl_bench.results.answers import WITH_LM, Answer
from mt4ssl_bench.results.answers import with_lm as decoded_with_lm
from mt4ssl_bench.results.metrics import Score
from mt4ssl_bench.results.provenance import environment
from mt4ssl_bench.results.record import Result
from mt4ssl_bench.results.record_parts import CorpusRecord, UpstreamRecord
from mt4ssl_bench.settings import nest


def write_record(
    model: Upstream,
    job: Job,
    task: Task,
    trained: Trained,
    *,
    counts: Mapping[str, int],
    device: str,
    clock: Clock,
    out: Path,
) -> tuple[Result, Path]:
    """Score the answers on test and write them with their record, which is returned with its path.

    Args:
        model: The upstream.
        job: Task recipe and corpus.
        task: With its units.
        trained: Result of the training.
        counts: Of utterances and what was left out.
        device: Torch device.
        clock: With the stages before; ends "test".
        out: Folder of the records.
    """
    answers = _answers(task, trained)
    metrics = _scores(task, answers, with_lm=trained.with_lm is not None)
    clock.lap("test")
    result = replace(
        _record(model, job, metrics, device, clock),
        sweep=trained.trials,
        layer_weights=trained.layer_weights,
        layer_norms=trained.layer_norms,
        seeds=list(job.training.seeds),
        counts={**counts, **trained.counts, **task.counts},
        lm_weights=trained.with_lm.weights if trained.with_lm else {},
        tuned=trained.tuned,
        chosen_by=task.choice.label if task.chosen_by else "",
        folds=_fold_values(task, answers),
    )
    _write_files(result, task.files(answers), out)
    return result, results.save(result, answers, out)


def write_layers(
    model: Upstream, job: Job, scored: LayerResult, *, device: str, clock: Clock, out: Path
) -> tuple[Result, Path]:
    """Write the answers of the chosen layer with their record, as write_record() does."""
    metrics = {name: scores[scored.layer] for name, scores in scored.scores.items()}
    result = replace(
        _record(model, job, metrics, device, clock),
        layer_scores=scored.curves,
        layer=scored.layer,
        chosen_on=scored.chosen_on,
        counts=scored.counts,
    )
    _write_files(result, scored.test.files, out)
    return result, results.save(result, scored.test.answers[scored.layer], out)


def _write_files(result: Result, files: Mapping[str, str], out: Path) -> None:
    """Write further files of a task before its record: where a record exists, they do too."""
    path = results.record_path(result, out)
    for suffix, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path.with_suffix(suffix), text)


def _record(
    model: Upstream, job: Job, metrics: dict[str, Score], device: str, clock: Clock
) -> Result:
    """Return what all records have, without the result of a training."""
    made_with = environment()
    return Result(
        task=job.kind.name,
        task_version=job.kind.version,
        upstream=_upstream(model),
        corpus=_corpus(job),
        main_metric=next(iter(metrics)),
        metrics=metrics,
        recipe_name=job.recipe,
        recipe=nest(job.config.settings()),
        scheme=results.SCHEME,
        settings=job.config.identity(),
        sweep=[],
        layer_weights=[],
        seeds=[],
        limit=job.limit,
        mode=job.config.mode,
        versions=made_with["versions"],
        git=made_with["git"],
        device=device,
        wall_seconds=clock.laps,
        counts={},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _scores(task: Task, answers: Sequence[Answer], *, with_lm: bool) -> dict[str, Score]:
    scores = {metric.name: metric.score(answers) for metric in task.all_metrics}
    for metric in task.all_metrics if with_lm else ():
        score = metric.score(decoded_with_lm(answers))
        scores[f"{metric.name}{WITH_LM}"] = replace(score, title=f"{score.title}{WITH_LM.upper()}")
    return scores


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


def _corpus(job: Job) -> CorpusRecord:
    info = job.corpus.info
    sizes = {role: job.size(role) for role in job.roles}
    return {
        "name": info.name,
        "digest": info.digest,
        "languages": info.languages,
        "synthetic": info.synthetic,
        "splits": {
            role: {"utterances": size.utterances, "hours": size.hours}
            for role, size in sizes.items()
        },
    }


def _answers(task: Task, trained: Trained) -> list[Answer]:
    answers = task.answers(trained.cuts, trained.hypotheses)
    counts = task.metric.counts(answers)
    if counts is not None:
        for answer, (s, d, i, n) in zip(answers, counts.tolist(), strict=True):
            answer |= {"substitutions": s, "deletions": d, "insertions": i, "tokens": n}
    if trained.with_lm:
        for answer, text in zip(answers, trained.with_lm.hypotheses, strict=True):
            answer["with_lm"] = text
    for number, answer in enumerate(answers if trained.variants else ()):
        answer["variants"] = {way: texts[number] for way, texts in trained.variants.items()}
    return answers


def _fold_values(task: Task, answers: Sequence[Answer]) -> dict[str, float]:
    """Return the main metric of each fold, none without folds."""
    folds: dict[str, list[Answer]] = {}
    for answer in answers if task.folds else ():
        folds.setdefault(answer["labels"]["fold"], []).append(answer)
    return {name: task.metric.value(part) for name, part in folds.items()}
