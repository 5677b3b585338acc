"""One record for people: metrics, sweep, layer weights, confusions, worst utterances.

And sweeps side by side.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mt4ssl_bench.results.metrics import METRICS, confusions
from mt4ssl_bench.results.record import Hypothesis, Result, load, load_hypotheses
from mt4ssl_bench.text import flat

CONFUSED, WORST = 15, 5  # lines of a report
BAR = 40  # characters of the largest layer weight's bar


def report(path: Path) -> RenderableType:
    """Return a record and its hypotheses as tables.

    Raises CheckpointError when either is damaged.
    """
    result, rows = load(path), load_hypotheses(path)
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
    said = "" if result.git is None else f", git {result.git[:12]}"
    lines = [f"{result.created} on {result.device}{said}; {times}", f"counts: {counts}"]
    parts = [
        _metrics(result),
        sweep_tables([result]),
        _layers(result),
        _confused(result, rows),
        _worst(rows),
    ]
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
        recipe = result.identity.protocol[:8]
        groups[result.corpus["name"], result.corpus["digest"], result.recipe_name, recipe].append(
            result
        )
    tables: list[RenderableType] = []
    for (corpus, _, name, mark), members in sorted(groups.items()):
        main = METRICS.get(members[0].main_metric)
        metric = main.label if main else members[0].main_metric
        seeds = "; a line for each seed" if any(len(result.seeds) > 1 for result in members) else ""
        grid = _table(
            f"{corpus}: {name} ({mark}), {metric} on valid by learning rate (at update){seeds}",
            "upstream",
        )
        rates = sorted({trial["lr"] for result in members for trial in result.sweep}, reverse=True)
        for rate in rates:
            grid.add_column(Text(f"{rate:g}"), justify="right")
        for result in members:
            grid.add_row(_text(result.upstream["name"]), *(_trials(result, rate) for rate in rates))
        tables.append(grid)
    return Group(*tables)


def _trials(result: Result, rate: float) -> Text:
    """The scores at one rate, one line for each seed."""
    lines = []
    for trial in (trial for trial in result.sweep if trial["lr"] == rate):
        value = "diverged" if trial["valid"] is None else f"{trial['valid']:.2f} ({trial['steps']})"
        lines.append(Text(value, "bold" if trial["chosen"] else ""))
    return Text("\n").join(lines) if lines else Text("-")


def _metrics(result: Result) -> Table:
    grid = _table(
        "test",
        "metric",
        "value",
        "95 % over utterances",
        "over speakers",
        "S",
        "D",
        "I",
        "errors",
        "of",
    )
    for name, score in result.metrics.items():
        label = METRICS[name].label if name in METRICS else name
        speakers = (
            "-"
            if score.speaker_low is None
            else f"[{score.speaker_low:.2f}, {score.speaker_high:.2f}]"
            + _method(score.speaker_method)
        )
        edits = (score.substitutions, score.deletions, score.insertions, score.errors, score.total)
        interval = f"[{score.low:.2f}, {score.high:.2f}]" + _method(score.method)
        grid.add_row(
            *map(_text, (label, f"{score.value:.2f}", interval, speakers, *map(str, edits)))
        )
    return grid


def _method(method: str | None) -> str:
    return "" if method in {None, "bootstrap"} else f" {method}"


def _layers(result: Result) -> RenderableType:
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


def _confused(result: Result, rows: Sequence[Hypothesis]) -> Table:
    """The commonest errors, in the tokens of the main metric."""
    metric = METRICS.get(result.main_metric)
    if metric is None or metric.tokens is None:
        return _table(f"most confused: {result.main_metric} has no definition here")
    references, hypotheses = zip(*((r["reference"], r["hypothesis"]) for r in rows), strict=True)
    found = confusions(references, hypotheses, by=metric.tokens)
    grid = _table(
        f"most confused {metric.noun or metric.tokens} ({found.total()} errors)",
        "reference",
        "hypothesis",
        "times",
    )
    for (wanted, said), count in sorted(found.items(), key=lambda item: (-item[1], item[0]))[
        :CONFUSED
    ]:
        grid.add_row(_text(wanted or "(inserted)"), _text(said or "(left out)"), str(count))
    return grid


def _worst(rows: Sequence[Hypothesis]) -> Table:
    grid = _table("worst utterances", "id", "S/D/I", "of", "reference", "hypothesis")
    edits = {row["id"]: row["substitutions"] + row["deletions"] + row["insertions"] for row in rows}
    for row in sorted(rows, key=lambda row: (-edits[row["id"]], row["id"]))[:WORST]:
        counts = f"{row['substitutions']}/{row['deletions']}/{row['insertions']}"
        grid.add_row(
            *map(
                _text,
                (
                    row["id"],
                    counts,
                    str(row["tokens"]),
                    row["reference"],
                    row["hypothesis"] or "(nothing)",
                ),
            )
        )
    return grid


def _text(text: str, style: str = "") -> Text:
    return Text(flat(text), style)


def _table(title: str, *headings: str) -> Table:
    grid = Table(title=_text(title), title_justify="left", title_style="bold")
    for number, heading in enumerate(headings):
        grid.add_column(Text(heading), justify="left" if not number or heading in LEFT else "right")
    return grid


LEFT = {"", "reference", "hypothesis"}
