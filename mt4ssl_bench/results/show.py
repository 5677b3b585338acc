"""One record as tables: metrics, sweep, layer weights, confusions, worst utterances.

Also the sweeps of several records side by side.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from rich.console import Group, RenderableType
from rich.text import Text

from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.results.answers import Answer, has_counts
from mt4ssl_bench.results.grid import Entry, Grid, Heading, Kind, grid, to_rich
from mt4ssl_bench.results.metrics import METRICS
from mt4ssl_bench.results.record import Result
from mt4ssl_bench.results.record_files import load, load_hypotheses
from mt4ssl_bench.results.record_parts import LayerScore, Trial
from mt4ssl_bench.results.recorded_metrics import installed
from mt4ssl_bench.text import flat

CONFUSED, WORST = 15, 5  # lines of a report
BAR = 20  # characters of the largest layer weight's bar


def report(path: Path) -> RenderableType:
    """Return a record and its answers as tables.

    Raises:
        CheckpointError: If either file is damaged.
    """
    result, answers = load(path), load_hypotheses(path)
    limited = f"; partial: {result.limit} utterances per split" if result.limit is not None else ""
    head = (
        f"{result.upstream['name']} ({result.upstream['fingerprint'][:8]}) on "
        f"{result.corpus['name']} ({result.corpus['digest'][:8]}): {result.recipe_name}, "
        f"{result.mode}{limited}"
    )
    times = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in result.wall_seconds.items())
    counts = ", ".join(f"{name} {count}" for name, count in result.counts.items())
    revision = "" if result.git is None else f", git {result.git[:12]}"
    origin = ", ".join(f"{k} {v}" for k, v in result.upstream.get("origin", {}).items())
    lines = [f"weights: {origin}"] if origin else []
    lines += [f"{result.created} on {result.device}{revision}; {times}", f"counts: {counts}"]
    if result.tuned:
        tuned = ", ".join(f"{name} {value:g}" for name, value in result.tuned.items())
        lines.append(f"decoding, chosen on valid: {tuned}")
    lines += _parts(result)
    grids = [_metrics(result)]
    grids += [_seeds(result)] if result.main.by_seed else []
    grids += [_folds(result)] if result.folds else []
    grids += [*sweeps([result]), *_layers(result), *_confused(result, answers)]
    grids += [_worst(answers)] if has_counts(answers) else []
    head_lines = [_text(head, "bold"), *map(_text, lines), Text()]
    return Group(*head_lines, to_rich(grids))


def sweep_tables(results: Sequence[Result]) -> RenderableType:
    """Return sweeps() for a rich console."""
    return to_rich(sweeps(results))


def sweeps(results: Sequence[Result]) -> list[Grid]:
    """Return every learning rate's main metric on valid, a table for each corpus and recipe.

    The chosen one is bold.
    """
    groups: defaultdict[tuple[str, ...], list[Result]] = defaultdict(list)
    for result in sorted(results, key=lambda result: result.created):
        if not result.sweep:
            continue
        measured_on = result.corpus["name"], result.corpus["digest"]
        groups[*measured_on, result.recipe_name, result.protocol[:8]].append(result)
    return [_sweep(key, group) for key, group in sorted(groups.items())]


def _sweep(key: tuple[str, ...], group: Sequence[Result]) -> Grid:
    """Return the sweeps of one corpus and recipe."""
    corpus, _, name, mark = key
    trials = [trial for result in group for trial in result.sweep]
    layers = any("layer" in trial for trial in trials)
    seeds = any(len(result.seeds) > 1 for result in group)
    rates = sorted({trial["lr"] for trial in trials}, reverse=True)
    headings = [Heading("upstream", "name", key=True)]
    headings += [Heading("layer", key=True)] if layers else []
    headings += [Heading("seed", key=True)] if seeds else []
    rows = []
    for result in group:
        for layer, seed, scores in _heads(result):
            about = [result.upstream["name"], *([layer] if layers else []), *([seed] * seeds)]
            rows.append([*map(Entry, about), *(scores.get(rate, Entry("-")) for rate in rates)])
    return Grid(
        title=f"{corpus}: {name} ({mark}), {group[0].chosen_by or group[0].main.label} on valid by "
        "learning rate (at update)",
        headings=[*headings, *(Heading(f"{rate:g}") for rate in rates)],
        rows=rows,
        bold="chosen",
    )


def _heads(result: Result) -> Iterator[tuple[str, str, dict[float, Entry]]]:
    """Yield the scores by rate of each layer and seed, then of the mean that chooses."""
    heads: defaultdict[tuple[str, str], list[Trial]] = defaultdict(list)
    for trial in result.sweep:
        heads[str(trial.get("layer", "-")), str(trial["seed"])].append(trial)
    for (layer, seed), trials in heads.items():
        yield layer, seed, {trial["lr"]: _trial(trial) for trial in trials}
    if not result.main.by_seed:
        return
    means = {}
    for rate in {trial["lr"] for trial in result.sweep}:
        trials = [trial for trial in result.sweep if trial["lr"] == rate]
        scores = [trial["valid"] for trial in trials if trial["valid"] is not None]
        if len(scores) == len(trials) == len(result.seeds):
            means[rate] = Entry(f"{fmean(scores):.2f}", bold=trials[0]["chosen"])
    yield "-", "mean", means


def _trial(trial: Trial) -> Entry:
    if trial["valid"] is None:
        return Entry("diverged")
    return Entry(f"{trial['valid']:.2f}", f"({trial['steps']})", bold=trial["chosen"])


def _metrics(result: Result) -> Grid:
    over = " or ".join(dict.fromkeys(score.over for score in result.metrics.values()))
    headings = ("metric", "value", f"95 % over {over}", "over speakers", "S", "D", "I", "errors")
    rows = []
    for score in result.metrics.values():
        speakers = (
            "-"
            if score.speaker_low is None
            else f"[{score.speaker_low:.2f}, {score.speaker_high:.2f}]"
            + _method(score.speaker_method)
        )
        edits = (score.substitutions, score.deletions, score.insertions, score.errors, score.total)
        counts = ["-"] * len(edits) if score.total is None else map(str, edits)
        interval = f"[{score.low:.2f}, {score.high:.2f}]" + _method(score.method)
        rows.append(
            (score.label, f"{score.value:.2f}{score.spread()}", interval, speakers, *counts)
        )
    return grid("test", _headings(*headings, "of"), rows)


def _seeds(result: Result) -> Grid:
    title = "test by seed; the value above is the mean, with the standard deviation"
    headings = _headings("metric", *(f"seed {seed}" for seed in result.main.by_seed))
    rows = [
        (score.label, *(f"{value:.2f}" for value in score.by_seed.values()))
        for score in result.metrics.values()
    ]
    return grid(title, headings, rows)


def _parts(result: Result) -> list[str]:
    """Return the parts of each metric that names them, one line each."""
    lines = []
    for name, score in result.metrics.items():
        names = METRICS.get(name).parts if name in METRICS else None
        if names and score.total:
            edits = (score.substitutions, score.deletions, score.insertions)
            shares = (100 * count / score.total for count in edits)
            parts = (f"{name} {share:.2f}" for name, share in zip(names, shares, strict=True))
            lines.append(f"{score.title} {score.value:.2f} {score.unit}: {', '.join(parts)}")
    return lines


def _folds(result: Result) -> Grid:
    """Return the main metric of each fold, which the table of metrics has as a mean."""
    rows = [(name, f"{value:.2f}") for name, value in result.folds.items()]
    return grid("test by fold", _headings("fold", result.main.label), rows)


def _method(method: str | None) -> str:
    return "" if method in {None, "bootstrap"} else f" {method}"


def _layers(result: Result) -> list[Grid]:
    if result.layer_scores:
        return [_curves(result)]
    if not result.layer_weights:
        return [_line("no layer weights: the upstream was trained with the head")]
    norms = result.layer_norms
    if not norms:
        headings, shares = _headings("layer", "weight"), result.layer_weights
        note = "weight: softmax weight; it is small for a loud layer, and this record has no norms"
    else:
        headings = _headings("layer", "weight", "mean norm", "weight x norm")
        shares = [weight * norm for weight, norm in zip(result.layer_weights, norms, strict=True)]
        note = (
            "weight: softmax weight; weight x norm: size of the layer's part in the sum, "
            "which compares layers (the bars)"
        )
    largest = max(shares) or 1.0
    rows = []
    for layer, (weight, share) in enumerate(zip(result.layer_weights, shares, strict=True)):
        numbers = [f"{weight:.3f}", *([f"{norms[layer]:.3g}", f"{share:.3g}"] if norms else [])]
        rows.append((str(layer), *numbers, "█" * round(BAR * share / largest)))
    title = "hidden states in the learned sum (0: before the first layer)"
    return [replace(grid(title, [*headings, Heading("", "word")], rows), notes=[note])]


def _curves(result: Result) -> Grid:
    """Return the scores of every layer, on valid where heads were chosen by it."""
    title = f"test by layer; layer {result.layer} is the best on {result.chosen_on}"
    labels = [result.metrics[name].label for name in result.layer_scores]
    first, *_ = result.layer_scores.values()
    valid = [f"valid {result.main.title}"] if "valid" in first[0] else []
    rows = []
    for number, scores in enumerate(zip(*result.layer_scores.values(), strict=True)):
        layer = scores[0].get("layer", number)
        cells = [Entry(f"{scores[0]['valid']:.2f}")] if valid else []
        cells += [_curve_cell(each) for each in scores]
        rows.append([Entry(str(layer), bold=layer == result.layer), *cells])
    samples = {
        each["samples"]
        for scores in result.layer_scores.values()
        for each in scores
        if "samples" in each
    }
    notes = [f"±: standard deviation over {number} samples of the tokens" for number in samples]
    return replace(grid(title, _headings("layer", *valid, *labels), rows), notes=notes)


def _curve_cell(score: LayerScore) -> Entry:
    spread = f" ±{score['spread']:.2f}" if "spread" in score else ""
    return Entry(f"{score['value']:.2f}{spread}", f"[{score['low']:.2f}, {score['high']:.2f}]")


def _confused(result: Result, answers: Sequence[Answer]) -> list[Grid]:
    """Return the commonest errors, in the tokens of the main metric."""
    try:
        metric = installed(result.main_metric)
    except ConfigError as error:
        return [_line(f"no confusions: {error}")]
    if metric.confusions is None:
        return [_line(f"no confusions: {result.main.title} compares no tokens")]
    counts = metric.confusions(answers)
    title = f"most confused {metric.tokens} ({counts.total()} errors)"
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rows = [
        (reference or "(inserted)", hypothesis or "(left out)", str(count))
        for (reference, hypothesis), count in ordered[:CONFUSED]
    ]
    return [grid(title, _headings("reference", "hypothesis", "times"), rows)]


def _worst(answers: Sequence[Answer]) -> Grid:
    def order(row: Answer) -> tuple[int, str]:
        return -(row["substitutions"] + row["deletions"] + row["insertions"]), row["id"]

    rows = []
    for row in sorted(answers, key=order)[:WORST]:
        name = row["id"] + (f", seed {row['seed']}" if "seed" in row else "")
        counts = f"{row['substitutions']}/{row['deletions']}/{row['insertions']}"
        hypothesis = row["hypothesis"] or "(nothing)"
        rows.append((name, counts, str(row["tokens"]), row["reference"], hypothesis))
    headings = _headings("id", "S/D/I", "of", "reference", "hypothesis")
    return grid("worst utterances", headings, rows)


def _text(text: str, style: str = "") -> Text:
    return Text(flat(text), style)


def _line(text: str) -> Grid:
    """Return a text in the place of a table."""
    return Grid(headings=(), rows=(), notes=[text])


def _headings(first: str, *others: str) -> list[Heading]:
    """Return headings: a column of names, then numbers and texts."""
    kinds: dict[str, Kind] = {"reference": "text", "hypothesis": "text"}
    number = first == "layer"
    key = Heading(first, kinds.get(first, "number" if number else "name"), key=True)
    return [key, *(Heading(text, kinds.get(text, "number")) for text in others)]
