"""The details of one record: its metrics, confusions, and worst utterances, word below word."""

import unicodedata
from collections.abc import Mapping, Sequence
from itertools import islice, zip_longest

import jiwer

from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.report.parts import Aligned, Cell, Detail, Grid, Looks, general, number
from mt4ssl_bench.results.answers import Answer, has_counts
from mt4ssl_bench.results.metrics import METRICS
from mt4ssl_bench.results.record import Result
from mt4ssl_bench.results.recorded_metrics import installed
from mt4ssl_bench.text import flat

WORST, ENOUGH = 5, 400  # worst utterances of a record, and of all: of many records, each has fewer
CONFUSED = 3  # common errors for each of the worst utterances
GAP = "*"


def detail(
    record: Result, answers: Sequence[Answer], name: str, looks: Looks, *, records: int
) -> Detail:
    """Return what a report of so many records shows of one."""
    limited = f" (partial: {record.limit} utterances per split)" if record.limit is not None else ""
    grids = [_metrics(record)]
    if record.main.by_seed:
        grids.append(_by_seed(record))
    if record.folds:
        grids.append(_folds(record.main.label, record.folds))
    most = max(1, min(WORST, ENOUGH // records))
    confused, note = _confusions(record, answers, CONFUSED * most)
    return Detail(
        title=f"{name}: {record.recipe_name} on {record.corpus['name']}{limited}",
        look=looks[name],
        facts=_facts(record),
        grids=[*grids, *confused],
        worst=_worst(answers, most),
        notes=note,
    )


def _facts(record: Result) -> list[tuple[str, str]]:
    upstream, corpus = record.upstream, record.corpus
    facts = {
        "main metric": f"{record.main.label} {record.main.value:.{record.main.digits}f}",
        "mode": record.mode,
        "seeds": ", ".join(map(str, record.seeds)),
        "fingerprint": upstream["fingerprint"],
        "parameters": f"{upstream['parameters']:,}",
        "weights": ", ".join(f"{k} {v}" for k, v in upstream.get("origin", {}).items()),
        "corpus digest": corpus["digest"],
        "counts": ", ".join(f"{k} {v:,}" for k, v in record.counts.items()),
        "decoding, chosen on validation": _listed(record.tuned | record.lm_weights),
        "seconds": _listed(record.wall_seconds),
        "settings that differ": ", ".join(f"{k}={v}" for k, v in record.settings.items()),
        "made": f"{record.created} on {record.device}",
        "revision": record.git or "",
        "versions": ", ".join(f"{k} {v}" for k, v in record.versions.items()),
    }
    return [(key, flat(value)) for key, value in facts.items() if value]


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in values.items())


def _metrics(record: Result) -> Grid:
    rows = []
    for name, score in record.metrics.items():
        edits = (score.substitutions, score.deletions, score.insertions, score.errors, score.total)
        parts = METRICS.get(name).parts if name in METRICS else None
        label = score.label + (f" (S, D, I: {', '.join(parts)})" if parts else "")
        label += "" if score.ranked else " (selected on test: never ranked)"
        rows.append(
            [
                Cell(label),
                number(score.value),
                number(score.low),
                number(score.high),
                Cell(f"{score.method} over {score.over}"),
                general(score.sd),
                general(score.speaker_low),
                general(score.speaker_high),
                *(
                    Cell("-") if e is None or score.total is None else Cell(f"{e:,}", e)
                    for e in edits
                ),
            ]
        )
    interval = ["low", "high", "interval by", "± over seeds", "low, speakers", "high, speakers"]
    headings = ["metric", "value", *interval, "S", "D", "I", "errors", "of"]
    return Grid(about="test", headings=headings, rows=rows)


def _by_seed(record: Result) -> Grid:
    rows = [
        [Cell(score.label), *map(number, score.by_seed.values())]
        for score in record.metrics.values()
    ]
    headings = ["metric", *(f"seed {seed}" for seed in record.main.by_seed)]
    return Grid(about="test by seed", headings=headings, rows=rows)


def _folds(label: str, folds: Mapping[str, float]) -> Grid:
    rows = [[Cell(flat(name)), number(value)] for name, value in folds.items()]
    return Grid(about="test by fold", headings=["fold", label], rows=rows)


def _confusions(
    record: Result, answers: Sequence[Answer], most: int
) -> tuple[list[Grid], list[str]]:
    """Return the commonest errors as a table, or a note why there is none."""
    if not answers:
        return [], ["no confusions and no utterances: the answers beside the record are missing"]
    try:
        metric = installed(record.main_metric)
    except ConfigError as error:
        return [], [f"no confusions: {error}"]
    if metric.confusions is None:
        return [], [f"no confusions: {record.main.title} compares no tokens"]
    counts = metric.confusions(answers)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rows = [
        [
            Cell(flat(reference) or "(inserted)"),
            Cell(flat(hypothesis) or "(left out)"),
            Cell(f"{count:,}", count),
        ]
        for (reference, hypothesis), count in islice(ordered, most)
    ]
    about = f"most confused {metric.tokens} ({counts.total():,} errors)"
    return [Grid(about=about, headings=["reference", "hypothesis", "times"], rows=rows)], []


def _worst(answers: Sequence[Answer], most: int) -> list[Aligned]:
    """Return the utterances with most errors; answers of one token stand in the confusions."""
    if not has_counts(answers) or max(answer["tokens"] for answer in answers) < 2:
        return []

    def order(answer: Answer) -> tuple[int, str]:
        errors = answer["substitutions"] + answer["deletions"] + answer["insertions"]
        return -errors, answer["id"]

    words = all(answer["tokens"] == len(answer["reference"].split()) for answer in answers)
    wrong = [answer for answer in sorted(answers, key=order)[:most] if order(answer)[0]]
    return [_aligned(answer, words=words) for answer in wrong]


def _aligned(answer: Answer, *, words: bool) -> Aligned:
    counts = f"S {answer['substitutions']}, D {answer['deletions']}, I {answer['insertions']}"
    seed = f", seed {answer['seed']}" if "seed" in answer else ""
    name = flat(f"{answer['id']}{seed}: {counts} of {answer['tokens']:,}")
    reference, hypothesis = flat(answer["reference"]), flat(answer["hypothesis"])
    if not words:  # for example, seconds of turns
        return Aligned(name=name, reference=reference, hypothesis=hypothesis or "(nothing)")
    above, below, marks = [], [], []
    for ours, theirs in _pairs(reference, hypothesis):
        kind = "" if ours == theirs else "I" if not ours else "D" if not theirs else "S"
        width = max(_width(ours), _width(theirs), 1)
        above.append(_padded(ours or GAP * width, width))
        below.append(_padded(theirs or GAP * width, width))
        marks.append(kind.ljust(width))
    lines = (" ".join(each).rstrip() for each in (above, below, marks))
    return Aligned(name=name, **dict(zip(("reference", "hypothesis", "marks"), lines, strict=True)))


def _pairs(reference: str, hypothesis: str) -> list[tuple[str, str]]:
    """Return the words of both texts in pairs, "" for an inserted or deleted one."""
    output = jiwer.process_words([reference], [hypothesis])
    (ours,), (theirs,), (chunks,) = output.references, output.hypotheses, output.alignments
    pairs: list[tuple[str, str]] = []
    for chunk in chunks:
        a = ours[chunk.ref_start_idx : chunk.ref_end_idx]
        b = theirs[chunk.hyp_start_idx : chunk.hyp_end_idx]
        pairs += zip_longest(a, b, fillvalue="")
    return pairs


def _width(text: str) -> int:
    """Return the columns of a text in a font of equal widths."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) > 0 for character in text)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))
