"""Records to ranked tables, a pure function: one table per corpus, and no column mixes recipes."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from rich.console import RenderableType

from mt4ssl_bench.errors import BenchError
from mt4ssl_bench.results import board_formats, grid_formats
from mt4ssl_bench.results.grid import Grid, to_rich
from mt4ssl_bench.results.ranking import Answers
from mt4ssl_bench.results.record import Result
from mt4ssl_bench.results.record_files import answers_beside, load, one_model_each, record_paths
from mt4ssl_bench.results.table import build


class Leaderboard:
    """The ranked tables of a list of records.

    Attributes:
        tables: One per corpus digest, by title.
        dry_runs: One line for each partial result (made with a limit); these are never ranked.
    """

    def __init__(self, results: Sequence[Result], answers: Answers = lambda _: ()) -> None:
        """Rank `results`; a record without `answers` is placed by its values."""
        results = sorted(one_model_each(results), key=lambda result: result.created)
        names = names_of(results)
        corpora: defaultdict[str, list[Result]] = defaultdict(list)
        for result in results:
            if result.limit is None:
                corpora[result.corpus["digest"]].append(result)
        tables = (build(records, names, answers) for records in corpora.values())
        self.tables = sorted(tables, key=lambda table: table.title)
        self.dry_runs = [_dry_run(result, names) for result in results if result.limit is not None]

    @classmethod
    def from_folder(cls, folder: str | Path) -> "Leaderboard":
        """Rank a folder's records.

        Raises:
            BenchError: If there is none.
            CheckpointError: If one is damaged.
        """
        return cls(read_folder(Path(folder)), answers_beside)

    def grids(self) -> list[Grid]:
        """Return the tables to be shown, the best of each column in bold."""
        return board_formats.grids(self.tables, self.dry_runs)

    def to_rich(self) -> RenderableType:
        """Return the tables for a rich console; they fit its width."""
        return to_rich(self.grids())

    def to_markdown(self) -> str:
        """Return the tables in GitHub's Markdown."""
        return grid_formats.to_markdown(self.grids())

    def to_latex(self, *, intervals: bool = False) -> str:
        """Return the tables in LaTeX, with booktabs."""
        return grid_formats.to_latex(self.grids(), intervals=intervals)

    def to_html(self) -> str:
        """Return the tables in HTML, without a page around them."""
        return grid_formats.to_html(self.grids())

    def to_csv(self) -> str:
        """Return one line per upstream, corpus, recipe and metric, without partial results.

        Texts that a spreadsheet would take for a formula begin with "'".
        """
        return board_formats.to_csv(self.tables)

    def to_json(self) -> str:
        """Return everything as JSON; a row's `cells` stand in the order of `columns`."""
        return board_formats.to_json(self.tables, self.dry_runs)


def read_folder(folder: Path) -> list[Result]:
    """Return a folder's records, oldest first.

    Raises:
        BenchError: If there is none.
        CheckpointError: If one is damaged.
    """
    paths = record_paths(folder)
    if not paths:
        raise BenchError(f'no result records in {folder}; make one with "mt4ssl-bench evaluate"')
    return sorted(one_model_each(map(load, paths)), key=lambda result: result.created)


def names_of(results: Sequence[Result]) -> dict[str, str]:
    """Return the name to show for each fingerprint: the newest record's.

    Several models of one name get "@" and the first 6 digits.
    """
    newest = {result.upstream["fingerprint"]: result.upstream["name"] for result in results}
    number = Counter(newest.values())
    return {
        mark: f"{name}@{mark[:6]}" if number[name] > 1 else name for mark, name in newest.items()
    }


def _dry_run(result: Result, names: dict[str, str]) -> str:
    score = result.main
    value = f"{score.title} {score.value:.{score.digits}f} {score.unit}"
    made = f"limit {result.limit}, recipe {result.recipe_name}, corpus {result.corpus['name']}"
    return f"{names[result.upstream['fingerprint']]}: {result.task} {value} ({made})"
