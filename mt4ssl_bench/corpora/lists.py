"""Named lists of a corpus, such as trials and queries: read from TSV files, and checked."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from mt4ssl_bench.corpora.exclusions import Exclusions
from mt4ssl_bench.corpora.rows import SPLIT_NAME, Row
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.lists import ID, Lists, parse_list
from mt4ssl_bench.errors import ConfigError, CorpusError

LOGGER = logging.getLogger(__name__)


def read_lists(arguments: Iterable[str]) -> dict[str, list[dict[str, str]]]:
    """Return the lists of NAME=FILE arguments.

    Raises:
        ConfigError: If an argument is something else, or a name is given twice.
        CorpusError: If a file cannot be read.
    """
    lists: dict[str, list[dict[str, str]]] = {}
    for argument in arguments:
        name, equals, file = argument.partition("=")
        if not (equals and file and SPLIT_NAME.fullmatch(name)):
            raise ConfigError(
                f"--list {argument}: expected NAME=FILE, for example trials=trials.tsv"
            )
        if name in lists:
            raise ConfigError(f"--list {argument}: '{name}' is named twice; expected it once")
        lists[name] = parse_list(Path(file))
    return lists


def checked_lists(lists: Lists, rows: Iterable[Row], excluded: Exclusions) -> Lists:
    """Return the lists, if `excluded.partial` without the rows that name what was left out.

    Raises:
        CorpusError: If a list is empty, cannot be written, or names an unknown utterance.
    """
    ids = {row.id for row in rows} if lists else set()
    return {name: _checked(name, list(lists[name]), ids, excluded) for name in lists}


def kept_lists(corpus: Corpus, ids: set[str], counts: Counter[str]) -> Lists:
    """Return a corpus's lists for one made of it, without the rows that name none of its `ids`.

    These are counted as "list_rows"; a list of which nothing is left is dropped.
    """
    kept: dict[str, list[dict[str, str]]] = {}
    for name in corpus.info.lists:
        rows = corpus.list(name)
        kept[name] = [row for row in rows if not unknown_columns(row, ids.__contains__)]
        if lost := len(rows) - len(kept[name]):
            counts["list_rows"] += lost
            LOGGER.warning(
                "list '%s': left out %d of %d rows, which name utterances that are not there",
                name,
                lost,
                len(rows),
            )
    return {name: rows for name, rows in kept.items() if rows}


def unknown_columns(row: Mapping[str, str], known: Callable[[str], bool]) -> list[str]:
    """Return the columns of a row whose cells should name utterances, and do not."""
    return [column for column, cell in row.items() if column.endswith(ID) and not known(cell)]


def _checked(
    name: str, rows: Sequence[Mapping[str, str]], ids: set[str], excluded: Exclusions
) -> list[Mapping[str, str]]:
    where = f"{excluded.source}: list '{name}'"
    if not rows or not SPLIT_NAME.fullmatch(name):
        raise CorpusError(f"{where}: {'cannot be a name' if rows else 'holds no row'}")
    header = list(rows[0])
    usable = []
    for number, row in enumerate(rows, start=1):
        if list(row) != header or any(set("\t\n\r") & set(cell) for cell in row.values()):
            raise CorpusError(
                f"{where}, row {number}: expected cells without tabs and line breaks for "
                f"{', '.join(header)}"
            )
        unknown = unknown_columns(row, ids.__contains__)
        if not unknown:
            usable.append(row)
        elif excluded.partial:
            excluded.add("list_rows", f"list '{name}', row {number}", row[unknown[0]])
        else:
            raise CorpusError(
                f"{where}, row {number}: {unknown[0]} names no utterance of the corpus: "
                f"'{row[unknown[0]]}'; correct the list, or leave such rows out with --partial"
            )
    if not usable:
        raise CorpusError(f"{where}: each row names an utterance that is not in the corpus")
    return usable
