"""From predictions on the test split to a record: metrics, answers, and how they were computed."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from mt4ssl_bench import results
from mt4ssl_bench.data.cut import FOLD, Cut
from mt4ssl_bench.downstream.clock import Clock
from mt4ssl_bench.downstream.find_record import former
from mt4ssl_bench.downstream.job import Job, named
from mt4ssl_bench.downstream.layers.best_heads import layer_curves
from mt4ssl_bench.downstream.layers.score_task import LayerResult
from mt4ssl_bench.downstream.task import Task
from mt4ssl_bench.downstream.training.trained import Decoded, Trained
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.files import write_text
from mt4ssl_bench.results.answers import WITH_LM, Answer, by_seed
from mt4ssl_bench.results.answers import with_lm as decoded_with_lm
from mt4ssl_bench.results.metrics import Score
from mt4ssl_bench.results.metrics.best_variant import measurable, scores
from mt4ssl_bench.results.metrics.mean_of_values import MeanOfValues
from mt4ssl_bench.results.provenance import environment
from mt4ssl_bench.results.record import Result
from mt4ssl_bench.results.record_parts import CorpusRecord, UpstreamRecord, corpus_record
from mt4ssl_bench.settings import nest

LOGGER = logging.getLogger(__name__)


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
    answers = _answers(task, trained.cuts, trained.decoded)
    metrics = _scores(task, answers)
    unscored = _unscored(job, task, answers, metrics)
    curves = layer_curves(task, trained.layers, partial(_answers, task, trained.cuts))
    # a metric that has no number on some layer has no curve
    whole = [name for name, rows in curves.items() if len(rows) == len(trained.layers)]
    curves = {name: curves[name] for name in whole if name in metrics}
    chosen_on = "the training part of each fold" if task.folds else job.split("valid")
    clock.lap("test")
    chosen = next(trial for trial in trained.trials if trial["chosen"])
    result = replace(
        _record(model, job, metrics, device, clock),
        layer_scores=curves,
        layer=chosen.get("layer"),
        chosen_on=chosen_on if curves else "",
        sweep=trained.trials,
        layer_weights=trained.layer_weights,
        layer_norms=trained.layer_norms,
        seeds=list(job.training.seeds),
        counts={**task.counts, **counts, **trained.counts, **unscored},
        lm_weights=_of_seeds(
            {each.seed: each.with_lm.weights for each in trained.decoded if each.with_lm}
        ),
        tuned=_of_seeds({each.seed: each.tuned for each in trained.decoded}),
        chosen_by=task.choice.label if task.chosen_by else "",
        folds=_fold_values(task, answers),
    )
    seeds = by_seed(answers)
    for seed, part in seeds.items():
        files = task.files(part)
        prefix = f".seed-{seed}" if len(seeds) > 1 else ""
        _write_files(result, {prefix + suffix: text for suffix, text in files.items()}, out)
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


def _scores(task: Task, answers: Sequence[Answer]) -> dict[str, Score]:
    found = scores(task.all_metrics, answers)
    with_lm = "with_lm" in answers[0]
    decoded = scores(task.all_metrics, decoded_with_lm(answers)) if with_lm else {}
    return found | {
        f"{name}{WITH_LM}": replace(score, title=f"{score.title}{WITH_LM.upper()}")
        for name, score in decoded.items()
    }


def _upstream(model: Upstream) -> UpstreamRecord:
    record: UpstreamRecord = {
        "name": model.name,
        "fingerprint": model.fingerprint,
        "parameters": model.parameters,
        "num_layers": model.num_layers,
        "dim": model.dim,
        "stride": model.stride,
        "former": former(model),
    }
    if origin := getattr(model, "origin", None):
        record["origin"] = dict(origin)
    return record


def _corpus(job: Job) -> CorpusRecord:
    sizes = {role: job.size(role) for role in job.roles}
    return corpus_record(job.corpus.info, sizes, job.corpus.root.absolute().name)


def _answers(task: Task, cuts: Sequence[Cut], seeds: Sequence[Decoded]) -> list[Answer]:
    """Return the answers of every seed in turn."""
    every: list[Answer] = []
    for decoded in seeds:
        answers = task.answers(cuts, decoded.hypotheses)
        counts = task.metric.counts(answers)
        if counts is not None:
            for answer, (s, d, i, n) in zip(answers, counts.tolist(), strict=True):
                answer |= {"substitutions": s, "deletions": d, "insertions": i, "tokens": n}
        if decoded.with_lm:
            for answer, text in zip(answers, decoded.with_lm.hypotheses, strict=True):
                answer["with_lm"] = text
        for number, answer in enumerate(answers if decoded.variants else ()):
            answer["variants"] = {way: texts[number] for way, texts in decoded.variants.items()}
        for answer in answers if len(seeds) > 1 else ():
            answer["seed"] = decoded.seed
        every += answers
    return every


def _of_seeds(values: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """Return values by name, and by seed if there are several."""
    return {
        f"{name}, seed {seed}" if len(values) > 1 else name: value
        for seed, own in values.items()
        for name, value in own.items()
    }


def _unscored(
    job: Job, task: Task, answers: Sequence[Answer], metrics: Mapping[str, Score]
) -> dict[str, int]:
    """Count the answers that a mean of values leaves out, or a metric without a score; warn."""
    counts = {}
    for metric in measurable(task.all_metrics, answers):
        value = metric.value
        if isinstance(value, MeanOfValues) and (lacking := value.lacking(answers)):
            counts[f"test_without_{metric.name}"] = len(lacking)
            LOGGER.warning(
                "%s: %s cannot be measured on %d of %d utterances of test, which its mean leaves "
                "out: %s",
                *(job.recipe, metric.label, len(lacking), len(answers), named(lacking)),
            )
        elif metric.name not in metrics:
            counts[f"test_without_{metric.name}"] = len(answers)
            LOGGER.warning(
                "%s: %s has nothing to measure in test; the record does not have it",
                *(job.recipe, metric.label),
            )
    return counts


def _fold_values(task: Task, answers: Sequence[Answer]) -> dict[str, float]:
    """Return the main metric of each fold, of several seeds their mean; none without folds."""
    folds: dict[str, list[Answer]] = {}
    for answer in answers if task.folds else ():
        folds.setdefault(answer["labels"][FOLD], []).append(answer)
    return {name: task.metric.system(part).value for name, part in folds.items()}
