"""Commands of `prepare`: one for each source of corpora, built from its facts and options."""

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

from mt4ssl_bench.cli.options import (
    Download,
    From,
    FromOnly,
    LexiconFiles,
    Licence,
    Mirror,
    Name,
    Out,
    Partial,
    Shards,
    print_section,
    show_corpus,
    write_shards,
)
from mt4ssl_bench.console import stdout

if TYPE_CHECKING:
    from mt4ssl_bench.corpora.source import Option, Options, Source

PUBLISHED, OTHERS = "Published corpora", "Your own audio, other toolkits"  # panels of --help


class Sources(TyperGroup):
    """The commands of `prepare`; a source is imported when its command is asked for."""

    def list_commands(self, ctx: object) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of all sources that can be used."""
        from mt4ssl_bench.corpora.source import catalogue

        return list(catalogue())

    def get_command(self, ctx: object, cmd_name: str) -> TyperCommand:  # noqa: ARG002
        """Return a source's command.

        Raises:
            ConfigError: If there is no such source; the message names similar ones.
        """
        from mt4ssl_bench.corpora.source import SOURCES

        return _command(cmd_name, SOURCES.get(cmd_name))


app = typer.Typer(
    cls=Sources,
    no_args_is_help=True,
    help="Make a corpus: a published one, by its name, or one of your own audio. 'mt4ssl-bench "
    "list corpora' prints hours, licence and tasks of each.",
)


@app.callback()
def _prepare() -> None:
    """Keep a group although no command is registered."""


def _command(name: str, source: "Source[Options]") -> TyperCommand:
    """Return the command that makes a corpus of a source."""
    from mt4ssl_bench.corpora.source import options_of

    options = options_of(source.options)

    def run(**given: object) -> None:
        _run(source, options, given)

    signature = inspect.Signature(_parameters(source, options))
    vars(run)["__signature__"] = signature  # which typer reads
    single = typer.Typer(add_completion=False, rich_markup_mode="rich")
    published = source.takes.how == "--from"
    single.command(
        name,
        help=_help(source),
        short_help=escape(source.about),
        rich_help_panel=PUBLISHED if published else OTHERS,
    )(run)
    return cast("TyperCommand", typer.main.get_command(single))


def _run(
    source: "Source[Options]", options: Sequence["Option"], given: Mapping[str, object]
) -> None:
    from mt4ssl_bench.corpora.prepare_source import Request, prepare_source, read_splits

    build: Callable[..., Options] = source.options
    values = build(**{option.name: option.value(given[option.name]) for option in options})
    root = given.get("root")
    roots = (
        read_splits(cast("list[str]", root))
        if source.takes.how == "splits"
        else {"": cast("Path", root)}
        if root is not None
        else {}
    )
    request = Request(
        roots=roots,
        download=bool(given.get("download")),
        mirror=str(given.get("mirror", "")),
        name=str(given.get("name", "")),
        licence=str(given.get("licence", "unknown")),
        lexicon=cast("list[Path] | None", given.get("lexicon")) or (),
        partial=bool(given.get("partial")),
    )
    made = prepare_source(source, values, cast("Path", given["out"]), request)
    show_corpus(made.corpus)
    if made.labels is not None:
        stdout.print(
            f"  labels: targets.offline.labels={made.labels.folder} "
            f"targets.offline.clusters={made.labels.info.clusters}"
        )
    write_shards(made.corpus, cast("Path | None", given["shards"]), made.labels)


def _parameters(source: "Source[Options]", options: Sequence["Option"]) -> list[inspect.Parameter]:
    """Return the arguments and options of a source's command, in the order of its help."""
    takes = source.takes
    argument = typer.Argument(metavar=takes.metavar, help=takes.help)
    own = takes.how in {"path", "splits"}
    published = takes.how == "--from"
    shared: list[tuple[bool, str, object, object]] = [
        (takes.how == "path", "root", Annotated[Path, argument], MISSING),
        (takes.how == "splits", "root", Annotated[list[str], argument], MISSING),
        (True, "out", Out, MISSING),
        (published, "root", From if source.archives else FromOnly, None),
        (bool(source.archives), "download", Download, False),
        (own, "name", Name, ""),
        (own and not source.licence, "licence", Licence, "unknown"),
    ]
    last: list[tuple[bool, str, object, object]] = [
        (source.texts and takes.how != "nothing", "lexicon", LexiconFiles, None),
        (takes.how != "nothing" and not source.skips, "partial", Partial, False),
        (bool(source.archives), "mirror", Mirror, ""),
        (True, "shards", Shards, None),
    ]
    middle = [(True, option.name, _annotation(option), _default(option)) for option in options]
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=annotation,
            default=inspect.Parameter.empty if default is MISSING else default,
        )
        for wanted, name, annotation, default in [*shared, *middle, *last]
        if wanted
    ]


def _annotation(option: "Option") -> object:
    flag = f"--{option.name.replace('_', '-')}"
    names = (f"{flag}/--no-{flag[2:]}",) if option.default is True else (flag,)
    kind = types.GenericAlias(list, (option.type,)) | None if option.repeated else option.type
    return Annotated[kind, typer.Option(*names, help=option.help)]


def _default(option: "Option") -> object:
    if option.repeated and option.default is not MISSING:
        return list(cast("tuple[object, ...]", option.default)) or None
    return option.default


def _help(source: "Source[Options]") -> str:
    facts = {
        "Length": source.hours,
        "Licence": source.licence,
        "Tasks": source.tasks,
        "Page": source.homepage,
    }
    paragraphs = [
        f"{source.about}.",
        *(" ".join(part.split()) for part in source.help.split("\n\n")),
        " ".join(f"{key}: {text}." for key, text in facts.items() if text),
        *(f"Example: mt4ssl-bench prepare {example}" for example in source.examples),
    ]
    return escape("\n\n".join(filter(None, paragraphs)))


def print_catalogue() -> None:
    """Print every corpus that `prepare` has a command for: hours, licence, tasks."""
    from mt4ssl_bench.corpora.source import catalogue

    lines = []
    for name, source in catalogue().items():
        lines += [(name, source.about), ("", source.facts)]
    print_section("corpora (prepare NAME --help)", lines)
