"""Sources of corpora: facts, options and reader of each, and the registry of them.

A source is one file of `corpora/sources/`, or an entry point of another package. Its command of
`prepare`, its line in `list corpora` and its row in the docs are built from its SOURCE.
"""

import logging
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Generic,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from mt4ssl_bench.corpora import sources
from mt4ssl_bench.corpora.download import Archive, fetch
from mt4ssl_bench.corpora.frame_labels import FrameLabels
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.registry import Registry, hint

if TYPE_CHECKING:
    from mt4ssl_bench.data.corpus import Corpus
    from mt4ssl_bench.data.labels import LabelStore

LOGGER = logging.getLogger(__name__)
SIMPLE = (bool, int, float, str, Path)
RESERVED = frozenset(  # options that every source's command may have
    ["root", "out", "download", "name", "licence", "lexicon", "partial", "mirror", "shards"]
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a source; a source that has some subclasses this.

    A field becomes an option of the command if its type carries a help text:
    `speed: Annotated[float, "Speed of the audio, 1 is unchanged."] = 1.0`. Types are bool, int,
    float, str, Path and Literal, each also with `| None`, or in `tuple[..., ...]` for an option
    that may be repeated. A value that does not fit raises ConfigError in `__post_init__`.
    """

    audio: Path = Path("audio")  # folder for audio that no file holds as it is; set by prepare

    def parts(self) -> Sequence[str] | None:
        """Return the archives to download; None for all."""
        return None

    def notes(self) -> Mapping[str, str]:
        """Return what corpus.json records of the options."""
        return {}


@dataclass(frozen=True)
class Option:
    """An option of a source's command.

    Args:
        name: The field's name.
        type: Type of the value, or of one of them if the option may be repeated.
        help: Help text.
        default: Default of the field; MISSING if the option must be given.
        repeated: Whether the option may be repeated.
    """

    name: str
    type: object
    help: str
    default: object
    repeated: bool

    def value(self, given: object) -> object:
        """Return the field's value of what the command line gives."""
        return tuple(cast("Iterable[object] | None", given) or ()) if self.repeated else given


def options_of(options: type[Options]) -> list[Option]:
    """Return the options of a command, from the fields that have a help text.

    Raises:
        ConfigError: If a field has a type or a name that no option can have.
    """
    hints = get_type_hints(options, include_extras=True)
    found = []
    for item in fields(options):
        kind, *texts = get_args(hints[item.name]) if _is_annotated(hints[item.name]) else [None]
        help_text = next((text for text in texts if isinstance(text, str)), None)
        if help_text is None:
            continue
        repeated = get_origin(kind) is tuple
        if repeated:
            kind = get_args(kind)[0]
        where = f"{options.__name__}.{item.name}"
        if item.name in RESERVED:
            raise ConfigError(f"{where}: every source has this option; expected another name")
        if not _is_simple(kind):
            raise ConfigError(
                f"{where}: {kind} cannot be an option; expected "
                f"{', '.join(k.__name__ for k in SIMPLE)}, a Literal, | None of it, or tuple[X, ...]"
            )
        default = item.default if item.default_factory is MISSING else item.default_factory()
        found.append(Option(item.name, kind, help_text, default, repeated))
    return found


def _is_annotated(kind: object) -> bool:
    return get_origin(kind) is Annotated


def _is_simple(kind: object) -> bool:
    if get_origin(kind) in {Union, UnionType}:
        inner = [part for part in get_args(kind) if part is not type(None)]
        return len(inner) == 1 and _is_simple(inner[0])
    return kind in SIMPLE or get_origin(kind) is Literal


@dataclass(frozen=True)
class Takes:
    """Where a source's command finds what it reads.

    Args:
        how: "--from": a folder, which may be downloaded. "path": one positional argument.
            "splits": SPLIT=PATH arguments, or one path of a corpus without splits.
            "nothing": the source makes its audio in the folder of the corpus.
        metavar: Name of the positional argument.
        help: Help text of the positional argument.
    """

    how: Literal["--from", "path", "splits", "nothing"]
    metavar: str = ""
    help: str = ""


FOLDER = Takes("--from")
SPLITS = Takes(
    "splits", "SPLIT=PATH...", "For example train=data/train.tsv, or one path without splits."
)
NOTHING = Takes("nothing")

O = TypeVar("O", bound=Options)  # noqa: E741 - options
Lists = Mapping[str, Sequence[Mapping[str, str]]]  # rows of named lists: trials, queries


@dataclass(frozen=True, kw_only=True)
class Source(Generic[O]):
    """A source of corpora.

    Args:
        name: Name of its command and of its corpora.
        about: One line for lists.
        read: Yield the rows of what a user named, without opening audio: `read(root, options)`,
            where `root` is the folder or file, for a source that takes nothing the corpus's folder.
        options: The class of its options.
        takes: What the command's argument is.
        help: Further paragraphs of `--help`, separated by empty lines.
        examples: Command lines that run, without "mt4ssl-bench prepare".
        hours: Length as its authors state it, with the unit.
        licence: "" if it depends on what is read: then the command has `--licence`.
        tasks: What the corpora can be used for.
        archives: Downloads by part.
        obtain: How to get the corpus if no program may download it.
        phones_from: What the rows' own phones are from.
        notes: What corpus.json records of every corpus.
        texts: Whether rows may have texts, for which `--lexicon` gives phones.
        skips: Whether files that cannot be read are always left out, which is `--partial`.
        strict: Whether rows say everything themselves; see prepare().
        synthetic: Whether nobody spoke.
        frame_labels: Read cluster labels that lie beside the audio: `frame_labels(roots, options)`.
        lists: Read the corpus's named lists: `lists(root, options)`.
    """

    name: str
    about: str
    read: Callable[[Path, O], Iterable[Row]]
    options: type[O]
    takes: Takes = FOLDER
    help: str = ""
    examples: tuple[str, ...] = ()
    hours: str = ""
    licence: str = ""
    tasks: str = ""
    homepage: str = ""
    citation: str = ""
    archives: Mapping[str, Archive] = field(default_factory=dict)
    obtain: str = ""
    phones_from: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)
    texts: bool = True
    skips: bool = False
    strict: bool = False
    synthetic: bool = False
    frame_labels: Callable[[Sequence[Path], O], FrameLabels | None] | None = None
    lists: Callable[[Path, O], Lists] | None = None

    def __post_init__(self) -> None:
        """Check the options, so that a wrong one shows when the source is imported."""
        options_of(self.options)

    @property
    def facts(self) -> str:
        """Hours, licence and tasks in one line."""
        return " | ".join(filter(None, (self.hours, self.licence, self.tasks)))


SOURCES: Registry[Source[Options]] = Registry(
    "corpus",
    {
        module.name: f"{sources.__name__}.{module.name}:SOURCE"
        for module in pkgutil.iter_modules(sources.__path__)
    },
    group="mt4ssl_bench.sources",
    base=Source,
)


def catalogue() -> dict[str, Source[Options]]:
    """Return every source that can be used by its name, published corpora first.

    What is wrong with another one is logged.
    """
    return dict(sorted(SOURCES.items(), key=lambda item: (item[1].takes.how != "--from", item[0])))


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

    corpus: "Corpus"
    labels: "LabelStore | None"


def prepare_source(
    source: Source[O], options: O, out: Path, request: Request | None = None
) -> Prepared:
    """Make a corpus of a source.

    Raises:
        ConfigError: If the request does not fit the source.
        CorpusError: If something cannot be downloaded or read; nothing is written to `out` but
            downloads.
    """
    from mt4ssl_bench.corpora.prepare import prepare

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
    return Prepared(corpus, labels.write(corpus) if labels else None)


def _roots(source: Source[O], options: O, out: Path, request: Request) -> Mapping[str, Path]:
    """Return what to read, by split, downloaded if that is asked for."""
    where = f"prepare {source.name}"
    if source.takes.how == "nothing":
        return {"": out}
    if not request.download:
        if not request.roots:
            ways = "--download fetches it" if source.archives else source.obtain
            raise ConfigError(f"{where}: --from DIR names the folder of the corpus; {ways}")
        return request.roots
    if not source.archives:
        raise ConfigError(
            f"{where}: cannot be downloaded by a program; {source.obtain}; then use --from DIR"
        )
    parts = options.parts()
    for part in parts or ():
        if part not in source.archives:
            raise ConfigError(
                f"{where}: no part '{part}' to download; {hint(part, source.archives)}"
            )
    folder = request.roots.get("", out / "source")
    fetch([source.archives[part] for part in parts or source.archives], folder, request.mirror)
    return {"": folder}


def _rows(source: Source[O], options: O, audio: Path, roots: Mapping[str, Path]) -> Iterator[Row]:
    for split, root in roots.items():
        for row in source.read(root, replace(options, audio=audio / split)):
            yield replace(row, split=split) if split else row


def _name(root: Path) -> str:
    return (root.parent if root.is_file() else root).resolve().name


def _notes(source: Source[O]) -> dict[str, str]:
    stated = {"citation": source.citation, "homepage": source.homepage}
    return {key: text for key, text in stated.items() if text}


def read_splits(arguments: Sequence[str]) -> dict[str, Path]:
    """Return SPLIT=PATH arguments by split; one path without a split is the whole corpus ("").

    Raises:
        ConfigError: If an argument names no path, or no split where there are several.
    """
    from mt4ssl_bench.corpora.rows import SPLIT_NAME

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
    if "" in splits:
        LOGGER.info("%s: no split named; train, valid and test are made here", splits[""])
    return splits
