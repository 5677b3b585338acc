"""Suites: files that list tasks, each with its recipe and its corpus.

They lie in recipes/suites, and in the folder `suites` of other recipe packages.
"""

from dataclasses import dataclass, field
from pathlib import Path

from mt4ssl_bench.config import load, suite_files
from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.registry import hint


@dataclass(frozen=True, kw_only=True)
class SuiteRow:
    """One evaluation of a suite.

    Attributes:
        task: The task.
        recipe: Its recipe: a name, or a path, which may be relative to the suite's file.
        corpus: Folder of the corpus in the folder of all corpora, and the corpus's name.
        keys: Recipe keys that differ, as "labels=drink".
    """

    task: str = ""
    recipe: str = ""
    corpus: str = ""
    keys: tuple[str, ...] = ()

    @property
    def recipe_name(self) -> str:
        """The name of the recipe in records."""
        return Path(self.recipe).stem if self.recipe.endswith((".yaml", ".yml")) else self.recipe


@dataclass(frozen=True, kw_only=True)
class Suite:
    """The content of a suite's file.

    Attributes:
        about: One line for lists.
        prepare: By corpus, the arguments of `prepare` that make it, without --out. Default: the
            example of the source of that name.
        rows: In the order of the table's columns.
    """

    about: str = ""
    prepare: dict[str, str] = field(default_factory=dict)
    rows: list[SuiteRow] = field(default_factory=list)


def read_suite(name: str) -> Suite:
    """Return the suite of a name, or of a path to a .yaml file.

    Raises:
        ConfigError: If there is no such suite, or its file is wrong.
    """
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise ConfigError(f"suite {path}: no such file")
    else:
        files = suite_files()
        if name not in files:
            raise ConfigError(
                f"unknown suite '{name}'; {hint(name, files)} (expected a name or a file's path)"
            )
        path = files[name]
    suite = load(Suite, str(path))
    if not suite.rows:
        raise ConfigError(f"suite {path}: no rows; expected task, recipe and corpus of each")
    rows = []
    for number, row in enumerate(suite.rows, 1):
        missing = [key for key in ("task", "recipe", "corpus") if not getattr(row, key)]
        if missing:
            raise ConfigError(f"suite {path}: row {number} has no {', '.join(missing)}")
        beside = path.parent / row.recipe
        recipe = str(beside) if beside.is_file() else row.recipe
        rows.append(SuiteRow(task=row.task, recipe=recipe, corpus=row.corpus, keys=row.keys))
    return Suite(about=suite.about, prepare=suite.prepare, rows=rows)
