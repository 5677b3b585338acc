"""Writes the tables of the documentation that come from the registries, between their markers.

    python docs/write_tables.py

`tests/test_docs.py` fails while a table is out of date.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from mt4ssl_bench.config import read_recipe, recipe_names
from mt4ssl_bench.corpora.source import catalogue
from mt4ssl_bench.downstream.task import TASKS
from mt4ssl_bench.encoders.kind import ENCODERS
from mt4ssl_bench.results.metrics import METRICS
from mt4ssl_bench.upstream.targets import TARGETS

DOCS = Path(__file__).parent
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    cells = ([cell.replace("|", r"\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def summary(kind: type) -> str:
    """Return the first paragraph of a class's docstring in one line."""
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())


def corpora() -> str:
    """Return the table of corpora."""
    takes = {
        "--from": "`--from`",
        "path": "one path",
        "splits": "`SPLIT=PATH`",
        "nothing": "nothing",
    }
    return table(
        ("`prepare NAME`", "content", "length", "licence", "tasks", "input"),
        (
            (
                f"`{name}`",
                source.about,
                source.hours,
                source.licence,
                source.tasks,
                ("`--download` or " if source.archives else "") + takes[source.takes.how],
            )
            for name, source in catalogue().items()
        ),
    )


def tasks() -> str:
    """Return the table of tasks."""
    rows = []
    for name, kind in TASKS.items():
        metrics = (each if isinstance(each, str) else each.name for each in kind.metrics)
        rows.append((f"`{name}`", summary(kind), ", ".join(kind.reads), ", ".join(metrics)))
    return table(("task", "what it is", "reads", "metrics"), rows)


def recipes() -> str:
    """Return the table of recipes."""
    about = {name: str(read_recipe(name).get("about", "")) for name in recipe_names()}
    return table(("recipe", "what it sets"), ((f"`{name}`", text) for name, text in about.items()))


def metrics() -> str:
    """Return the table of metrics."""
    rows = (
        (
            f"`{name}`",
            metric.title or name.upper(),
            metric.unit,
            "higher" if metric.higher_is_better else "lower",
            metric.over,
        )
        for name, metric in METRICS.items()
    )
    return table(("metric", "title", "unit", "better is", "interval over"), rows)


def targets() -> str:
    """Return the table of target extractors."""
    rows = ((f"`targets.{name}`", summary(kind)) for name, kind in TARGETS.items())
    return table(("section", "what it is"), rows)


def encoders() -> str:
    """Return the table of kinds of encoders."""
    rows = ((f"`{kind.written}`", kind.about) for _, kind in ENCODERS.items())
    return table(("written as", "what it loads"), rows)


TABLES = {
    "corpora": corpora,
    "tasks": tasks,
    "recipes": recipes,
    "metrics": metrics,
    "targets": targets,
    "encoders": encoders,
}


def filled(text: str) -> str:
    """Return a page with its tables as the registries have them now."""
    return MARKED.sub(lambda match: f"{match[1]}\n{TABLES[match[2]]()}\n{match[3]}", text)


def main() -> None:
    """Write the tables of all pages."""
    for page in DOCS.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            page.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
