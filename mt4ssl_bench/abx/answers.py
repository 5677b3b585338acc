"""ABX scores as answers and metrics of records: one answer holds the errors of one speaker.

So speakers are what is resampled, by the same bootstrap as for every other metric, and files are
enough for intervals and paired comparisons. An answer's reference is the digest of all triplets:
scores of other triplets are never paired.

Shapes: N answers (speakers), S resamples.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from mt4ssl_bench.abx.intervals import Over, alone, replicate
from mt4ssl_bench.abx.plan import Mode
from mt4ssl_bench.abx.table import Counts, Table, Weights
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.results.answers import Answer
from mt4ssl_bench.results.intervals import DEFAULT, Bootstrap, Floats, Resampled, Units
from mt4ssl_bench.results.metrics.metric import Metric, Score


def answers_of(tables: Mapping[Mode, Table], layer: int, over: Over = "groups") -> list[Answer]:
    """Return one answer for each speaker.

    The hypothesis is JSON: by mode, rows of category of a and x, category of b, group of a and b,
    group of x, number of cells, sum of their errors.

    Args:
        tables: By mode.
        layer: Place of the layer in them.
        over: Where the speaker is: "groups" (phones, words), or "categories" (speaker ABX).
    """
    rows: dict[str, dict[str, list[list[str | float]]]] = {}
    for mode, table in tables.items():
        categories, groups = table.categories, table.groups
        speakers = groups if over == "groups" else categories
        for speaker in speakers:
            rows.setdefault(speaker, {each: [] for each in tables})
        entries = zip(table.keys.tolist(), table.cells.tolist(), table.sums[layer], strict=True)
        for (p, q, a, x), cells, errors in entries:
            speaker = groups[a] if over == "groups" else categories[p]
            rows[speaker][mode].append(
                [categories[p], categories[q], groups[a], groups[x], cells, float(errors)]
            )
    digest = " ".join(f"{mode} {table.digest}" for mode, table in tables.items())
    return [
        {
            "id": speaker,
            "speaker": speaker,
            "reference": f"{over} {digest}",
            "hypothesis": json.dumps(rows[speaker], ensure_ascii=False, separators=(",", ":")),
        }
        for speaker in sorted(rows)
    ]


def table_of(answers: Sequence[Answer], mode: Mode) -> tuple[Table, Over]:
    """Return the table (one layer) that answers_of() wrote, and where its speakers are.

    Raises:
        CorpusError: If the answers hold no error of this mode.
    """
    over: Over = "categories" if answers[0]["reference"].startswith("categories") else "groups"
    rows = sorted(row for each in answers for row in json.loads(each["hypothesis"]).get(mode, ()))
    if not rows:
        raise CorpusError(f"ABX {mode}: no triplet among the answers")
    speakers = {answer["id"] for answer in answers}
    categories = {name for row in rows for name in row[:2]}
    groups = {name for row in rows for name in row[2:4]}
    names = [tuple(sorted(each)) for each in (categories, groups)]
    places = [{name: number for number, name in enumerate(each)} for each in names]
    keys = [[places[0][p], places[0][q], places[1][a], places[1][x]] for p, q, a, x, *_ in rows]
    table = Table(
        categories=names[0],
        groups=names[1],
        keys=np.array(keys, dtype=np.int64),
        cells=np.array([row[4] for row in rows], dtype=np.int64),
        sums=np.array([[row[5] for row in rows]], dtype=np.float64),
        counts=Counts(  # those of tokens and triplets are in the record
            tokens=0,
            cells=sum(row[4] for row in rows),
            pairs=len({(row[0], row[1]) for row in rows}),
            categories=len(categories),
            groups=len(speakers),
            triplets=0,
        ),
        across=mode == "across",
        digest=answers[0]["reference"],
    )
    return table, over


@dataclass(frozen=True)
class _ErrorRate:
    """100 * the score of a mode; see metric.Fast."""

    mode: Mode

    def __call__(self, answers: Sequence[Answer], weights: Floats | None = None, /) -> float:
        """See Value: the weights are those of the speakers."""
        if weights is not None:
            return float(self.resampled(answers)(weights[None])[0])
        return 100 * float(table_of(answers, self.mode)[0].errors()[0])

    def outcomes(self, answers: Sequence[Answer], /) -> NDArray[np.str_]:
        """See Telling: a speaker's triplets of this mode, and what they gave."""
        own = [json.dumps(json.loads(each["hypothesis"]).get(self.mode)) for each in answers]
        return np.array([sha256(text.encode()).hexdigest() for text in own], dtype=np.str_)

    def resampled(self, answers: Sequence[Answer], /) -> Resampled:
        """See Fast."""
        table, over = table_of(answers, self.mode)
        place = {answer["id"]: number for number, answer in enumerate(answers)}
        used = [place[name] for name in (table.groups if over == "groups" else table.categories)]

        def values(weights: Floats) -> Floats:
            sizes = {"groups": len(table.groups), "categories": len(table.categories)}
            ones = {name: np.ones((size, len(weights))) for name, size in sizes.items()}
            ones[over] = weights.T[used]
            groups, categories = ones["groups"], ones["categories"]
            errors, _ = table.weighted(Weights(a=groups, x=groups, categories=categories))
            rates: Floats = 100 * errors[0]
            return rates

        return values


@dataclass(frozen=True, kw_only=True)
class AbxMetric(Metric):
    """The ABX error rate of a mode, with the intervals of replicate()."""

    mode: Mode

    def score(self, answers: Sequence[Answer], bootstrap: Bootstrap = DEFAULT) -> Score:
        """See Metric.score: a jackknife below 10 speakers, and the range of speakers below 5."""
        table, over = table_of(answers, self.mode)
        interval = replicate(table, over, seed=bootstrap.seed).interval(0)
        return Score(
            value=100 * float(table.errors()[0]),
            low=100 * interval.low,
            high=100 * interval.high,
            method=interval.method,
            higher_is_better=self.higher_is_better,
            title=self.title,
            unit=self.unit,
            order=self.order,
            over=self.over,
        )

    def units_of(self, answers: Sequence[Answer]) -> Units:
        """See Metric.units_of: speakers without a triplet of this mode are no units."""
        table, over = table_of(answers, self.mode)
        used = set(table.groups if over == "groups" else table.categories)
        return Units.of(each["id"] if each["id"] in used else () for each in answers)

    def alone(self, answers: Sequence[Answer]) -> dict[str, float]:
        """See Metric.alone: across, a and b are of that speaker, and x of any other one."""
        table, over = table_of(answers, self.mode)
        names, values = alone(table, over)
        return dict(zip(names, (100 * values[0]).tolist(), strict=True))

    def under(self, rule: str) -> "AbxMetric":
        """Return the metric with the rule of its frames in the title."""
        return replace(self, title=f"{self.title}, {rule} frames")


def _metric(mode: Mode, order: int) -> AbxMetric:
    return AbxMetric(
        name=f"abx_{mode}",
        title=mode,
        order=order,
        mode=mode,
        value=_ErrorRate(mode),
        over="speakers",
        tokens="categories",
    )


WITHIN, ACROSS = _metric("within", 40), _metric("across", 41)
