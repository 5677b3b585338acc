"""Named corpora, from where they lie or from the web: catalogue, download and a layout's reader joined."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mt4ssl_bench.catalogue import CATALOGUE
from mt4ssl_bench.corpora.download import fetch
from mt4ssl_bench.corpora.prepare import prepare_rows
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.registry import hint

Reader = Callable[[Path], Iterator[Row]]


def prepare_published(
    name: str,
    out: Path,
    read: Reader,
    *,
    source: Path | None,
    download: Sequence[str] | None = None,
    mirror: str = "",
    partial: bool = False,
    lexicon: Sequence[Path] = (),
    phones_from: str = "",
    notes: dict[str, str] | None = None,
) -> Corpus:
    """Make the named corpus of the catalogue.

    Args:
        read: the layout's reader, its options filled in.
        source: where the corpus lies, or where to download it to (default: <out>/source).
        download: the parts to fetch first; None takes what is there.
        mirror: an address that holds the same archives.

    Raises ConfigError for what cannot be downloaded, CorpusError for everything that a layout may lack.
    """
    entry = CATALOGUE[name]
    if download is not None:
        if not entry.archives:
            raise ConfigError(
                f"prepare {name}: cannot be downloaded by a program; {entry.obtain}; then use --from DIR"
            )
        for part in download:
            if part not in entry.archives:
                raise ConfigError(
                    f"prepare {name}: no part '{part}' to download; {hint(part, entry.archives)}"
                )
        source = source or out / "source"
        fetch([entry.archives[part] for part in download], source, mirror=mirror)
    elif source is None:
        ways = "--download fetches it" if entry.archives else entry.obtain
        raise ConfigError(f"prepare {name}: --from DIR says where it lies; {ways}")
    return prepare_rows(
        read(source),
        out,
        source=source,
        partial=partial,
        lexicon=lexicon,
        phones_from=phones_from,
        notes={"citation": entry.citation, "homepage": entry.homepage} | (notes or {}),
        name=name,
        licence=entry.licence,
    )
