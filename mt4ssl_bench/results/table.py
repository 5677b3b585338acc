"""The ranked table of one corpus, from its records.

No column mixes recipes, no rank mixes tasks.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from mt4ssl_bench.results.intervals import MIN_GROUPS
from mt4ssl_bench.results.metrics import Score
from mt4ssl_bench.results.ranking import Answers, places, shared
from mt4ssl_bench.results.record import Result
from mt4ssl_bench.results.record_parts import CorpusRecord
from mt4ssl_bench.text import in_millions

# task, recipe name, protocol's first digits: what the numbers of a column share
Recipe = tuple[str, str, str]
Records = dict[Recipe, Result]  # of one upstream

PLACE = (
    "place: 1 + the number of rows that are better by 'mt4ssl-bench compare' (paired bootstrap, "
    "95 % interval without 0); rows that cannot be told apart have equal places"
)
SYNTHETIC = "synthetic speech: a check of the code, not a speech benchmark"


@dataclass(frozen=True, kw_only=True)
class Column:
    """One metric of one task under one recipe: only numbers of one column may be compared.

    Attributes:
        metric: Its name in the records.
        label: The heading.
        main: Whether it is its task's main metric.
        first: Whether it is main, under the recipe of its task that most rows share.
        ranked: Whether it is first, and all ranked rows have it: then it decides the rank.
    """

    recipe: Recipe
    metric: str
    mode: str
    label: str
    main: bool
    first: bool
    ranked: bool = False


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of one row.

    Attributes:
        lr: The learning rates with the best score on the validation split.
        best: Whether no row has a better one.
    """

    score: Score
    lr: tuple[float, ...]
    best: bool
    layer: str = ""  # where there is one, and on which split it was chosen


@dataclass(frozen=True, kw_only=True)
class Row:
    """One upstream; `cells` stand as the table's columns do, None where it was not measured.

    `mean_rank` is the mean place over the ranked columns, and None for a row that lacks one of
    them. `tasks` of `of_tasks` tasks were evaluated under the recipes that can rank.
    """

    upstream: str
    fingerprint: str
    parameters: int
    rank: int | None
    mean_rank: float | None
    tasks: int
    of_tasks: int
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """The rows measured on one corpus, best first, then those that lack a ranked column."""

    title: str
    corpus: CorpusRecord
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    by_value: tuple[str, ...] = ()  # the upstreams that were placed without a paired bootstrap

    @property
    def gaps(self) -> bool:
        """Whether a row lacks a task, so that the tasks of each are shown."""
        return any(row.tasks < row.of_tasks for row in self.rows)

    def headings(self) -> list[str]:
        """Return the headings of the columns about the upstream, and of the metrics."""
        about = ["rank", "upstream", "params (M)", *(["tasks"] if self.gaps else [])]
        return [*about, *(column.label for column in self.columns)]

    def about(self, row: Row) -> list[str]:
        """Return a row's cells before its metrics."""
        tasks = [f"{row.tasks} of {row.of_tasks}"] if self.gaps else []
        return [str(row.rank or "-"), row.upstream, in_millions(row.parameters), *tasks]

    def interval_notes(self) -> list[str]:
        """Return the notes on what stands in brackets."""
        scores = self._scores()
        titles: defaultdict[str, dict[str, None]] = defaultdict(dict)
        for score in scores:
            titles[score.over][score.title] = None
        overs = [f"{over} ({', '.join(titles[over])})" for over in titles]
        over = ", over ".join(overs if len(titles) > 1 else titles)
        lines = [f"in brackets: 95 % interval over {over}, by the bootstrap"]
        if few := {score.method for score in scores} & {"jackknife", "range"}:
            lines.append(f"^ of ABX: {' or '.join(sorted(few))}, as there are few speakers")
        if any(score.method in {"wilson", "poisson", "exact"} for score in scores):
            lines.append(
                f"^: score interval (Wilson): all {' or '.join(titles)} have the same rate, so the "
                f"bootstrap has no width, or they are fewer than {MIN_GROUPS}"
            )
        return lines

    def notes(self) -> list[str]:
        """Return the other notes, the recipes with their learning rates among them."""
        ranked = ", ".join(column.label for column in self.columns if column.ranked)
        number = sum(row.rank is not None for row in self.rows)
        lines = [SYNTHETIC] if self.corpus["synthetic"] else []
        counts = sorted({len(score.by_seed) for score in self._scores() if score.sd is not None})
        if counts:
            seeds = " or ".join(map(str, counts))
            lines.append(
                f"±: standard deviation over {seeds} seeds; the value is their mean, which the "
                "interval is of, too"
            )
        share = f", which all {number} ranked rows share" if number > 1 else ""
        lines.append(f"rank: mean place over {ranked}{share}")
        lines.append(PLACE)
        if self.by_value:
            lines.append(
                "placed by value, without answers to the same utterances beside their records: "
                + ", ".join(self.by_value)
            )
        if self.gaps:
            lines.append("tasks: evaluated under the recipe of each task's first column")
        for index, column in enumerate(self.columns):
            if column.main:
                shown = (
                    f"{row.upstream} {rates(cell)}"
                    for row in self.rows
                    if (cell := row.cells[index])
                )
                task, name, mark = column.recipe
                layers = any(
                    cell and cell.layer for cell in (row.cells[index] for row in self.rows)
                )
                lines.append(
                    f"{task}: recipe {name} ({mark}), {column.mode}; "
                    f"{'best' if layers else 'lr'}: {', '.join(shown)}"
                )
        return lines

    def _scores(self) -> list[Score]:
        return [cell.score for row in self.rows for cell in row.cells if cell]


def build(records: Sequence[Result], names: dict[str, str], answers: Answers) -> Table:
    """Return the table of one corpus.

    Args:
        records: of that corpus, oldest first: of repeated evaluations the newest counts.
        names: the name to show for each fingerprint.
        answers: returns those beside a record, for the paired bootstrap.
    """
    models: defaultdict[str, Records] = defaultdict(dict)
    for result in records:
        recipe = result.task, result.recipe_name, result.protocol[:8]
        models[result.upstream["fingerprint"]][recipe] = result
    columns = _columns(models.values())
    scores = {mark: [_score(own, column) for column in columns] for mark, own in models.items()}
    tops = [max(map(_good, column)) for column in zip(*scores.values(), strict=True)]
    first = [index for index, column in enumerate(columns) if column.first]
    has = {mark: [i for i in first if row[i] is not None] for mark, row in scores.items()}
    ranked = shared(first, has)
    columns = [replace(column, ranked=i in ranked) for i, column in enumerate(columns)]
    ranks, by_value = _mean_places(
        {mark: own for mark, own in models.items() if set(ranked) <= set(has[mark])},
        [columns[i].recipe for i in ranked],
        answers,
    )
    rows = [
        Row(
            upstream=names[mark],
            fingerprint=mark,
            parameters=next(iter(own.values())).upstream["parameters"],
            rank=1 + sum(other < ranks[mark] for other in ranks.values())
            if mark in ranks
            else None,
            mean_rank=ranks.get(mark),
            tasks=len(has[mark]),
            of_tasks=len(first),
            cells=tuple(_cell(own, column, top) for column, top in zip(columns, tops, strict=True)),
        )
        for mark, own in models.items()
    ]
    rows.sort(key=lambda row: (row.rank is None, row.rank or row.cells.count(None), row.upstream))
    return Table(
        title=_title(records),
        corpus=records[-1].corpus,
        columns=tuple(columns),
        rows=tuple(rows),
        by_value=tuple(sorted(names[mark] for mark in by_value)),
    )


def _columns(models: Collection[Records]) -> list[Column]:
    """Columns in the order that the records say.

    Within a task the recipe that most rows share comes first, and ranks; of equal ones, heads on
    single layers come last.
    """
    shares = Counter(recipe for records in models for recipe in records)
    newest = {recipe: result for records in models for recipe, result in records.items()}
    recipes = Counter(task for task, _, _ in shares)
    order = _task_order(newest.values())
    columns: list[Column] = []
    for recipe in sorted(
        shares,
        key=lambda each: (order[each[0]], -shares[each], "layers" in newest[each].settings, each),
    ):
        task, name, mark = recipe
        result = newest[recipe]
        first = task not in {column.recipe[0] for column in columns}
        for key, score in result.metrics.items():
            if not score.ranked:
                continue
            other = f"{name}@{mark[:6]}" if recipes[task] > 1 else ""
            layers = result.settings.get("layers")  # never to be read as heads on a weighted sum
            about = ", ".join(filter(None, [other, f"layers={layers}" if layers else ""]))
            main = key == result.main_metric
            columns.append(
                Column(
                    recipe=recipe,
                    metric=key,
                    mode=result.mode,
                    label=f"{task} {score.label}{f' ({about})' if about else ''}",
                    main=main,
                    first=main and first,
                )
            )
    return columns


def _task_order(results: Collection[Result]) -> dict[str, tuple[int, str]]:
    """Return the place of each task: that of its main metric, then by name."""
    order: dict[str, tuple[int, str]] = {}
    for result in results:
        place = result.main.order, result.task
        order[result.task] = min(place, order.get(result.task, place))
    return order


def _mean_places(
    models: Mapping[str, Records], ranked: Sequence[Recipe], answers: Answers
) -> tuple[dict[str, float], set[str]]:
    """Return each row's mean place over the ranked columns, and the rows placed by value."""
    sums, by_value = dict.fromkeys(models, 0), set()
    for recipe in ranked:
        column, paired = places([records[recipe] for records in models.values()], answers)
        for mark, place, pair in zip(models, column, paired, strict=True):
            sums[mark] += place
            if not pair and len(models) > 1:
                by_value.add(mark)
    return {mark: total / len(ranked) for mark, total in sums.items()}, by_value


def _title(records: Sequence[Result]) -> str:
    """Return the corpus with digest, languages and test split, by task if sizes differ."""
    corpus = records[-1].corpus
    sizes: defaultdict[str, set[str]] = defaultdict(set)
    for result in records:
        if test := result.corpus["splits"].get("test"):
            sizes[f"{test['utterances']} utterances, {test['hours']:.2f} h"].add(result.task)
    order = _task_order(records)
    ordered = sorted((sorted(tasks, key=order.__getitem__), size) for size, tasks in sizes.items())
    tests = [size + (f" ({', '.join(tasks)})" if len(sizes) > 1 else "") for tasks, size in ordered]
    parts = [f"{corpus['name']} ({corpus['digest'][:8]})", " ".join(corpus["languages"])]
    return "; ".join(filter(None, [*parts, f"test: {', '.join(tests)}" if tests else ""]))


def _good(score: Score | None) -> float:
    return -math.inf if score is None else score.goodness


def _score(records: Records, column: Column) -> Score | None:
    result = records.get(column.recipe)
    return result.metrics.get(column.metric) if result else None


def _cell(records: Records, column: Column, top: float) -> Cell | None:
    score = _score(records, column)
    if score is None:
        return None
    chosen = {trial["lr"] for trial in records[column.recipe].sweep if trial["chosen"]}
    result = records[column.recipe]
    layer = "" if result.layer is None else f"layer {result.layer} (of {result.chosen_on})"
    return Cell(score=score, lr=tuple(sorted(chosen)), best=score.goodness == top, layer=layer)


def rates(cell: Cell) -> str:
    """Return the learning rates that validation chose, as text."""
    lr = "/".join(f"{rate:g}" for rate in cell.lr)
    return " at ".join(filter(None, [cell.layer, lr])) or "-"
