"""Writes what the documentation takes from the code, between its markers.

    python docs/write_tables.py           # --check only names the pages that are out of date

Tables come from the registries, commands from Typer, keys from the config dataclasses.
`tests/test_docs.py` and `make docs` fail while a page is out of date.
"""

import re
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import describe_commands
import describe_keys
from mt4ssl_bench.cli.prepare import OTHERS, PUBLISHED
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
    "commands_of_corpora": partial(describe_commands.panel, "Corpora"),
    "commands_of_evaluation": partial(describe_commands.panel, "Evaluation"),
    "commands_of_models": partial(describe_commands.panel, "Pretraining", "Models"),
    "commands_of_results": partial(describe_commands.panel, "Results"),
    "prepare_shared": describe_commands.prepare_shared,
    "prepare_a_to_k": partial(describe_commands.prepare, PUBLISHED, "ak"),
    "prepare_l_to_p": partial(describe_commands.prepare, PUBLISHED, "lp"),
    "prepare_q_to_z": partial(describe_commands.prepare, PUBLISHED, "qz"),
    "prepare_own_a_to_k": partial(describe_commands.prepare, OTHERS, "ak"),
    "prepare_own_l_to_z": partial(describe_commands.prepare, OTHERS, "lz"),
    "keys_of_pretraining": describe_keys.pretraining,
    "keys_of_evaluation": describe_keys.evaluation,
    "keys_of_tasks": partial(describe_keys.tasks, trained=True),
    "keys_of_untrained_tasks": partial(describe_keys.tasks, trained=False),
}


def filled(text: str) -> str:
    """Return a page with its tables as the registries have them now."""
    return MARKED.sub(lambda match: f"{match[1]}\n{TABLES[match[2]]()}\n{match[3]}", text)


def main() -> int:
    """Write all pages, or with --check only print those that are out of date; return how many."""
    check, stale = "--check" in sys.argv[1:], 0
    for page in sorted(DOCS.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        if (new := filled(text)) == text:
            continue
        if check:
            print(f"{page.relative_to(DOCS)}: out of date; run: python docs/write_tables.py")
            stale += 1
        else:
            page.write_text(new, encoding="utf-8")
    return stale


if __name__ == "__main__":
    sys.exit(min(main(), 1))
