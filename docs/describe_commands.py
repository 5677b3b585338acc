"""The reference of commands: help, arguments and options, from Typer."""

import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence
from enum import Enum
from types import NoneType
from typing import Annotated, Literal, Protocol, cast, get_args, get_origin

import typer

from mt4ssl_bench.cli.app import app
from mt4ssl_bench.corpora.source import RESERVED

WIDTH, NARROW = 100, 84  # columns of text, and of a command
UNBROKEN = {"break_on_hyphens": False, "break_long_words": False}
FACTS = ("Length: ", "Licence: ", "Tasks: ")  # of a source: corpora/sources.md has them as a table


class Parameter(Protocol):
    """What the reference reads of an argument or an option of Typer."""

    name: str
    opts: list[str]
    secondary_opts: list[str]
    param_type_name: str
    metavar: str | None
    help: str | None
    required: bool
    default: object
    multiple: bool
    nargs: int


class Command(Protocol):
    """What the reference reads of a command of Typer."""

    help: str
    rich_help_panel: str
    callback: object
    params: list[Parameter]


def plain(text: str) -> str:
    """Return a text of --help with Markdown's own characters escaped."""
    text = re.sub(r"([*_|])", r"\\\1", text.replace("\\[", "["))
    return " ".join(text.replace("<", "&lt;").split())


def command(*path: str) -> Command:
    """Return a command by the words that call it."""
    found = typer.main.get_command(app)
    for word in path:
        found = found.get_command(typer.Context(found), word)
    return cast("Command", found)


def names(*path: str) -> list[str]:
    """Return the names of the commands of a group."""
    group = command(*path)
    return list(group.list_commands(typer.Context(group)))


def help_text(text: str) -> Iterator[str]:
    """Yield the paragraphs of a command's help; commands become code."""
    code: list[str] = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        line = re.sub(r"^Examples?: ", "", " ".join(paragraph.split()))
        if line.startswith(FACTS):
            continue
        if line.startswith(("mt4ssl-bench ", "torchrun ")):
            # an option stays beside its value
            line = re.sub(
                r"( --?\w[\w-]*) (?!-)", "\\1\N{NO-BREAK SPACE}", line.replace("\\[", "[")
            )
            wrapped = textwrap.wrap(line, NARROW, subsequent_indent="  ", **UNBROKEN)
            code.append(" \\\n".join(wrapped).replace("\N{NO-BREAK SPACE}", " "))
            continue
        yield textwrap.fill(plain(line), WIDTH, **UNBROKEN)
    if code:
        yield "\n".join(["```", *code, "```"])


def kind(call: Command, parameter: Parameter) -> str:
    """Return what a value of a parameter is: a type, or the values to choose from."""
    annotation = inspect.signature(call.callback, eval_str=True).parameters[parameter.name]
    return value_of(annotation.annotation)


def value_of(hint: object) -> str:
    """Return a type as the reference writes it; "" for a flag."""
    if get_origin(hint) is Annotated:
        return value_of(get_args(hint)[0])
    if get_origin(hint) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(hint))
    if get_origin(hint) is list:
        return value_of(get_args(hint)[0])
    if parts := [part for part in get_args(hint) if part is not NoneType]:
        return value_of(parts[0])
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " or ".join(f"`{member.value}`" for member in hint)
    named = {"bool": "", "str": "text", "int": "integer", "float": "number", "Path": "path"}
    return named.get(getattr(hint, "__name__", ""), "text")


def default_of(parameter: Parameter) -> str:
    """Return a parameter's default as the reference writes it."""
    if parameter.required:
        return "required"
    value = parameter.default
    if value is None or value is False or value in ("", ()):
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(f"`{each}`" for each in value)
    return f"`{value.value if isinstance(value, Enum) else value}`"


def rows(call: Command, wanted: Sequence[str] | None = None) -> Iterator[tuple[str, ...]]:
    """Yield the rows of a table of arguments and options."""
    for parameter in call.params:
        if parameter.name == "help" or (wanted is not None and parameter.name not in wanted):
            continue
        argument = parameter.param_type_name == "argument"
        shown = parameter.metavar or parameter.name.upper()
        written = shown if argument else " / ".join([*parameter.opts, *parameter.secondary_opts])
        yield (
            f"`{written}`",
            kind(call, parameter) + (", repeatable" if parameter.multiple else ""),
            default_of(parameter),
            plain(parameter.help or ""),
        )


def table(lines: Sequence[tuple[str, ...]]) -> str:
    """Return a table of arguments and options."""
    head = [("argument or option", "value", "default", "meaning"), ("---",) * 4]
    return "\n".join(f"| {' | '.join(line)} |" for line in [*head, *lines])


def section(*path: str, wanted: Sequence[str] | None = None) -> str:
    """Return heading, help and table of a command."""
    call = command(*path)
    lines = list(rows(call, wanted))
    parts = [f"## {' '.join(path)}", *help_text(call.help), table(lines) if lines else ""]
    return "\n\n".join(filter(None, parts))


def panel(*titles: str) -> str:
    """Return the sections of all commands whose panel of --help has one of these titles."""
    sections = []
    for name in names():
        if hasattr(command(name), "list_commands"):
            if name != "prepare" and "Evaluation" in titles:
                sections += [section(name, inner) for inner in names(name)]
        elif command(name).rich_help_panel in titles:
            sections.append(section(name))
    return "\n\n".join(sections) + "\n"


def is_shared(parameter: Parameter) -> bool:
    """Return whether a parameter is an option that most commands of `prepare` have."""
    return parameter.name in RESERVED and parameter.param_type_name == "option"


def shared() -> dict[str, tuple[str, ...]]:
    """Return the options that most commands of `prepare` have, by the option's name."""
    found: dict[str, tuple[str, ...]] = {}
    for name in names("prepare"):
        call = command("prepare", name)
        for parameter in call.params:
            if is_shared(parameter):
                (row,) = rows(call, [parameter.name])
                found[parameter.name] = max(
                    found.get(parameter.name, row), row, key=lambda r: len(r[-1])
                )
    return found


def prepare_shared() -> str:
    """Return the table of options that most commands of `prepare` have."""
    return table(list(shared().values())) + "\n"


def prepare(panel: str, letters: str = "az") -> str:
    """Return the sections of commands of `prepare`, with the options that only they have.

    Args:
        panel: Their panel of --help.
        letters: First and last letter that their names may begin with.
    """
    sections = []
    for name in names("prepare"):
        call = command("prepare", name)
        if call.rich_help_panel == panel and letters[0] <= name[0] <= letters[1]:
            also = [each for each in call.params if is_shared(each)]
            mine = [each.name for each in call.params if not is_shared(each)]
            flags = ", ".join(f"`{each.opts[-1]}`" for each in also)
            sections.append(section("prepare", name, wanted=mine) + f"\n\nShared: {flags}.")
    return "\n\n".join(sections) + "\n"
