"""Sources of corpora: facts, options and reader of each, and the registry of them.

A source is one file of `corpora/sources/`, or an entry point of another package. Its command of
`prepare`, its line in `list corpora` and its row in the docs are built from its SOURCE.
"""

import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import (
    Annotated,
    Generic,
    Literal,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from mt4ssl_bench.corpora import sources
from mt4ssl_bench.corpora.download import Archive
from mt4ssl_bench.corpora.frame_labels import FrameLabels
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.data.lists import Lists
from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.registry import Registry

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
                f"{', '.join(simple.__name__ for simple in SIMPLE)}, a Literal, X | None or "
                "tuple[X, ...]"
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
