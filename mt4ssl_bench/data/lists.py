"""Named lists of a corpus (trials, queries): lists/<name>.tsv, cells by column.

A column whose name ends in "_id" names utterances.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.files import write_text

ID = "_id"  # how the names of columns end whose cells name utterances

Rows = Sequence[Mapping[str, str]]  # of a list, cells by column
Lists = Mapping[str, Rows]  # by name


def parse_list(file: Path) -> list[dict[str, str]]:
    """Return the rows of a TSV file with a header, cells by column.

    Raises:
        CorpusError: If it cannot be read; the message names the line.
    """
    try:
        header, *lines = file.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"list {file}: cannot be read ({error}); expected UTF-8 text") from None
    columns = header.rstrip("\r").split("\t")
    if len(set(columns)) < len(columns) or not all(columns):
        raise CorpusError(f"list {file}: its header has an empty or repeated column: {header!r}")
    rows = []
    for number, line in enumerate(lines, start=2):
        cells = line.rstrip("\r").split("\t")
        if len(cells) != len(columns):
            raise CorpusError(
                f"list {file}, line {number}: {len(cells)} cells; expected {len(columns)}, "
                "separated by tabs, as in its header"
            )
        rows.append(dict(zip(columns, cells, strict=True)))
    return rows


def check_columns(rows: Rows, columns: Sequence[str], where: str) -> None:
    """Raise CorpusError if a list lacks one of `columns`."""
    header = rows[0] if rows else {}
    if missing := [column for column in columns if column not in header]:
        raise CorpusError(
            f"{where}: no column {missing[0]}; expected {', '.join(columns)}, has "
            f"{', '.join(header)}"
        )


def write_lists(root: Path, lists: Lists) -> dict[str, int]:
    """Write each list to lists/<name>.tsv; returns how many rows each has."""
    for name, rows in lists.items():
        (root / "lists").mkdir(exist_ok=True)
        lines = ["\t".join(rows[0]), *("\t".join(row.values()) for row in rows)]
        write_text(root / "lists" / f"{name}.tsv", "\n".join(lines) + "\n")
    return {name: len(rows) for name, rows in lists.items()}
