"""A corpus of a source: downloaded if that is asked for, read, prepared, and its labels written."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from mt4ssl_bench.corpora.download import fetch
from mt4ssl_bench.corpora.prepare import prepare
from mt4ssl_bench.corpora.rows import SPLIT_NAME, Row
from mt4ssl_bench.corpora.source import SOURCES, O, Source
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.label_store import LabelStore
from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.registry import hint

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks of any source.

    Args:
        roots: What to read, by split; "" is the name for a whole corpus. Empty for what is
            downloaded or made.
        download: Fetch the source's archives first.
        mirror: Address that holds the same archives.
        name: Name of the corpus; default: the source's or the folder's.
        licence: Licence of the corpus, where the source states none.
        lexicon: Files that give phones.
        partial: Leave out and count what cannot be used.
    """

    roots: Mapping[str, Path] = field(default_factory=dict)
    download: bool = False
    mirror: str = ""
    name: str = ""
    licence: str = "unknown"
    lexicon: Sequence[Path] = ()
    partial: bool = False


class Prepared(NamedTuple):
    """A corpus, and the label store of the cluster labels that came with it."""

    corpus: Corpus
    labels: LabelStore | None


def prepare_source(
    source: Source[O], options: O, out: Path, request: Request | None = None
) -> Prepared:
    """Make a corpus of a source.

    Raises:
        ConfigError: If the request does not fit the source.
        CorpusError: If something cannot be downloaded or read; nothing is written to `out` but
            downloads.
    """
    request = request or Request()
    roots = _roots(source, options, out, request)
    labels = source.frame_labels(list(roots.values()), options) if source.frame_labels else None
    first = next(iter(roots.values()))
    corpus = prepare(
        _rows(source, options, out / "audio", roots),
        out,
        source=first,
        name=request.name or (_name(first) if source.takes.how == "path" else source.name),
        licence=source.licence or request.licence,
        lists=source.lists(first, options) if source.lists else None,
        lexicon=request.lexicon,
        partial=request.partial or source.skips,
        strict=source.strict,
        phones_from=source.phones_from,
        synthetic=source.synthetic,
        notes={**_notes(source), **source.notes, **options.notes()},
    )
    if source.takes.how == "splits" and "" in roots:
        LOGGER.info("%s: no split was named; train, valid and test were made here", first)
    return Prepared(corpus, labels.write(corpus) if labels else None)


def prepare_path(name: str, path: Path, out: Path, request: Request | None = None) -> Corpus:
    """Make a corpus of what lies at `path`, by the source of that name without options of its own.

    Raises:
        ConfigError: If there is no such source.
        CorpusError: If something cannot be read; nothing is written.
    """
    source = SOURCES.get(name)
    request = replace(request or Request(), roots={"": path})
    return prepare_source(source, source.options(), out, request).corpus


def _roots(source: Source[O], options: O, out: Path, request: Request) -> Mapping[str, Path]:
    """Return what to read, by split, downloaded if that is asked for."""
    where = f"prepare {source.name}"
    if source.takes.how == "nothing":
        return {"": out}
    if not request.download:
        if not request.roots:
            ways = f"; {source.obtain}" if source.obtain else ""
            ways = " or --download" if source.archives else ways
            raise ConfigError(f"{where}: expected --from DIR, the corpus's folder{ways}")
        return request.roots
    if not source.archives:
        raise ConfigError(
            f"{where}: no program may download it; {source.obtain}; then name its folder after "
            "--from"
        )
    parts = options.parts()
    parts = list(source.archives) if parts is None else parts
    for part in parts:
        if part not in source.archives:
            raise ConfigError(
                f"{where}: no part '{part}' to download; {hint(part, source.archives)}"
            )
    folder = request.roots.get("", out / "source")
    fetch([source.archives[part] for part in parts], folder, request.mirror)
    return {"": folder}


def _rows(source: Source[O], options: O, audio: Path, roots: Mapping[str, Path]) -> Iterator[Row]:
    for split, root in roots.items():
        for row in source.read(root, replace(options, audio=audio / split)):
            yield replace(row, split=split) if split else row


def _name(root: Path) -> str:
    return (root.parent if root.is_file() else root).resolve().name


def _notes(source: Source[O]) -> dict[str, str]:
    stated = {"source": source.name, "citation": source.citation, "homepage": source.homepage}
    return {key: text for key, text in stated.items() if text}


def read_splits(arguments: Sequence[str]) -> dict[str, Path]:
    """Return SPLIT=PATH arguments by split; one path without a split is the whole corpus ("").

    Raises:
        ConfigError: If an argument names no path, or no split where there are several.
    """
    splits: dict[str, Path] = {}
    for argument in arguments:
        split, equals, path = argument.partition("=")
        if not (equals and path and SPLIT_NAME.fullmatch(split)):
            split, path = "", argument
        if not Path(path).exists():
            missing = f"no file or folder '{path}'" if split else "no such file or folder"
            example = "for example train=data/train.tsv"
            raise ConfigError(f"'{argument}': {missing}; expected SPLIT=PATH, {example}")
        if not split and len(arguments) > 1:
            example = f"for example {'test' if 'train' in splits else 'train'}={path}"
            raise ConfigError(f"'{argument}': no split; expected SPLIT=PATH, {example}")
        if split in splits:
            raise ConfigError(f"'{argument}': split '{split}' is named twice; expected it once")
        splits[split] = Path(path)
    return splits
