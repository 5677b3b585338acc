"""One record as tables: metrics, sweep, layer weights, confusions, worst utterances.

Also the sweeps of several records side by side.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.results.answers import Answer, has_counts
from mt4ssl_bench.results.metrics import METRICS
from mt4ssl_bench.results.record import Result
from mt4ssl_bench.results.record_files import load, load_hypotheses
from mt4ssl_bench.results.record_parts import LayerScore
from mt4ssl_bench.results.recorded_metrics import installed
from mt4ssl_bench.text import flat

CONFUSED, WORST = 15, 5  # lines of a report
BAR = 40  # characters of the largest layer weight's bar


def report(path: Path) -> RenderableType:
    """Return a record and its answers as tables.

    Raises:
        CheckpointError: If either file is damaged.
    """
    result, answers = load(path), load_hypotheses(path)
    limited = (
        f"; dry run on {result.limit} utterances per split" if result.limit is not None else ""
    )
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
    parts = [_metrics(result), sweep_tables([result]), _layers(result), _confused(result, answers)]
    if any(score.by_seed for score in result.metrics.values()):
        parts.insert(1, _seeds(result))
    if result.folds:
        parts.insert(1, _folds(result))
    if has_counts(answers):
        parts.append(_worst(answers))
    return Group(
        _text(head, "bold"),
        *map(_text, lines),
        *(line for part in parts for line in (Text(), part)),
    )


def sweep_tables(results: Sequence[Result]) -> RenderableType:
    """Return every learning rate's main metric on valid, a table for each corpus and recipe.

    The chosen one is bold.
    """
    groups: defaultdict[tuple[str, ...], list[Result]] = defaultdict(list)
    for result in sorted(results, key=lambda result: result.created):
        if not result.sweep:
            continue
        measured_on = result.corpus["name"], result.corpus["digest"]
        groups[*measured_on, result.recipe_name, result.protocol[:8]].append(result)
    tables: list[RenderableType] = []
    for (corpus, _, name, mark), group in sorted(groups.items()):
        several = [
            name
            for name, many in (
                ("layer", any("layer" in trial for result in group for trial in result.sweep)),
                ("seed", any(len(result.seeds) > 1 for result in group)),
            )
            if many
        ]
        seeds = f"; a line for each {' and '.join(several)}" if several else ""
        grid = _table(
            f"{corpus}: {name} ({mark}), {group[0].chosen_by or group[0].main.label} on valid by "
            f"learning rate (at update){seeds}",
            "upstream",
        )
        rates = sorted({trial["lr"] for result in group for trial in result.sweep}, reverse=True)
        for rate in rates:
            grid.add_column(Text(f"{rate:g}"), justify="right")
        for result in group:
            grid.add_row(_text(result.upstream["name"]), *(_trials(result, rate) for rate in rates))
        tables.append(grid)
    return Group(*tables)


def _trials(result: Result, rate: float) -> Text:
    """Return the scores at one rate: a line per layer and seed, and for the mean that chooses."""
    lines = []
    trials = [trial for trial in result.sweep if trial["lr"] == rate]
    for trial in trials:
        value = "diverged" if trial["valid"] is None else f"{trial['valid']:.2f} ({trial['steps']})"
        layer = f"layer {trial['layer']}: " if "layer" in trial else ""
        lines.append(Text(f"{layer}{value}", "bold" if trial["chosen"] else ""))
    scores = [trial["valid"] for trial in trials if trial["valid"] is not None]
    if result.main.by_seed and len(scores) == len(trials) == len(result.seeds):
        style = "bold" if trials[0]["chosen"] else ""
        lines.append(Text(f"mean {fmean(scores):.2f}", style))
    return Text("\n").join(lines) if lines else Text("-")


def _metrics(result: Result) -> Table:
    over = " or ".join(dict.fromkeys(score.over for score in result.metrics.values()))
    headings = ("metric", "value", f"95 % over {over}", "over speakers", "S", "D", "I", "errors")
    grid = _table("test", *headings, "of")
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
        cells = (score.label, f"{score.value:.2f}{score.spread()}", interval, speakers, *counts)
        grid.add_row(*map(_text, cells))
    return grid


def _seeds(result: Result) -> Table:
    title = "test by seed; the value above is the mean, with the standard deviation"
    grid = _table(title, "metric", *(f"seed {seed}" for seed in result.main.by_seed))
    for score in result.metrics.values():
        grid.add_row(_text(score.label), *(f"{value:.2f}" for value in score.by_seed.values()))
    return grid


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


def _folds(result: Result) -> Table:
    """Return the main metric of each fold, which the table of metrics has as a mean."""
    grid = _table("test by fold", "fold", result.main.label)
    for name, value in result.folds.items():
        grid.add_row(_text(name), f"{value:.2f}")
    return grid


def _method(method: str | None) -> str:
    return "" if method in {None, "bootstrap"} else f" {method}"


def _layers(result: Result) -> RenderableType:
    if result.layer_scores:
        return _curves(result)
    if not result.layer_weights:
        return Text("no layer weights: the upstream was trained with the head")
    title = "hidden states in the learned sum (0: before the first layer)"
    norms = result.layer_norms
    if not norms:
        grid, shares = _table(title, "layer", "weight", ""), result.layer_weights
        note = "weight: softmax weight; it is small for a loud layer, and this record has no norms"
    else:
        grid = _table(title, "layer", "weight", "mean norm", "weight x norm", "")
        shares = [weight * norm for weight, norm in zip(result.layer_weights, norms, strict=True)]
        note = (
            "weight: softmax weight; weight x norm: size of the layer's part in the sum, "
            "which compares layers (the bars)"
        )
    largest = max(shares) or 1.0
    for layer, (weight, share) in enumerate(zip(result.layer_weights, shares, strict=True)):
        numbers = [f"{weight:.3f}", *([f"{norms[layer]:.3g}", f"{share:.3g}"] if norms else [])]
        grid.add_row(str(layer), *numbers, "█" * round(BAR * share / largest))
    return Group(grid, _text(note))


def _curves(result: Result) -> Table:
    """Return the scores of every layer, on valid where heads were chosen by it."""
    title = f"test by layer; layer {result.layer} is the best on {result.chosen_on}"
    labels = [result.metrics[name].label for name in result.layer_scores]
    first, *_ = result.layer_scores.values()
    valid = [f"valid {result.main.title}"] if "valid" in first[0] else []
    grid = _table(title, "layer", *valid, *labels)
    for number, scores in enumerate(zip(*result.layer_scores.values(), strict=True)):
        layer = scores[0].get("layer", number)
        cells = [f"{scores[0]['valid']:.2f}"] if valid else []
        cells += [_curve_cell(each) for each in scores]
        style = "bold" if layer == result.layer else ""
        grid.add_row(*(_text(cell, style) for cell in (str(layer), *cells)))
    return grid


def _curve_cell(score: LayerScore) -> str:
    text = f"{score['value']:.2f} [{score['low']:.2f}, {score['high']:.2f}]"
    if "spread" not in score:
        return text
    return f"{text}, SD {score['spread']:.2f} over {score['samples']} samples"


def _confused(result: Result, answers: Sequence[Answer]) -> RenderableType:
    """Return the commonest errors, in the tokens of the main metric."""
    try:
        metric = installed(result.main_metric)
    except ConfigError as error:
        return _text(f"no confusions: {error}")
    if metric.confusions is None:
        return _text(f"no confusions: {result.main.title} compares no tokens")
    counts = metric.confusions(answers)
    title = f"most confused {metric.tokens} ({counts.total()} errors)"
    grid = _table(title, "reference", "hypothesis", "times")
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    for (reference, hypothesis), count in ordered[:CONFUSED]:
        row = (reference or "(inserted)", hypothesis or "(left out)", str(count))
        grid.add_row(*map(_text, row))
    return grid


def _worst(answers: Sequence[Answer]) -> Table:
    grid = _table("worst utterances", "id", "S/D/I", "of", "reference", "hypothesis")

    def order(row: Answer) -> tuple[int, str]:
        return -(row["substitutions"] + row["deletions"] + row["insertions"]), row["id"]

    for row in sorted(answers, key=order)[:WORST]:
        name = row["id"] + (f", seed {row['seed']}" if "seed" in row else "")
        counts = f"{row['substitutions']}/{row['deletions']}/{row['insertions']}"
        hypothesis = row["hypothesis"] or "(nothing)"
        cells = (name, counts, str(row["tokens"]), row["reference"], hypothesis)
        grid.add_row(*map(_text, cells))
    return grid


def _text(text: str, style: str = "") -> Text:
    return Text(flat(text), style)


def _table(title: str, *headings: str) -> Table:
    grid = Table(title=_text(title), title_justify="left", title_style="bold")
    for number, heading in enumerate(headings):
        grid.add_column(Text(heading), justify="left" if not number or heading in LEFT else "right")
    return grid


LEFT = {"", "reference", "hypothesis"}
