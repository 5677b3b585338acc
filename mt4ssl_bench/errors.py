"""What a user can do wrong: each error is one line that says what is wrong, what would be right and
what to run.
"""

from collections.abc import Iterable


class BenchError(Exception):
    """Any error whose message is meant for the user.

    The command line prints it in one line and exits with code 2.
    """


class ConfigError(BenchError):
    """A recipe, key or name that does not exist or does not fit."""


class CorpusError(BenchError):
    """A corpus, manifest or audio file that cannot be used as asked."""


class AudioChangedError(BenchError):
    """An audio file that changed since prepare; no CorpusError, which some callers leave out."""


class CheckpointError(BenchError):
    """A checkpoint or store that is damaged, foreign or made from something else."""


class UpstreamError(BenchError):
    """A model that cannot be loaded or breaks the Upstream protocol."""


class TrainingError(BenchError):
    """A run that must stop: collapsed, not finite, or unable to save."""


def lines(error: BaseException | str) -> list[str]:
    """Return the lines of an error's message without blank ones.

    The class name if there is none.
    """
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [
        type(error).__name__
    ]


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class name if the message is empty."""
    return lines(error)[0]


def with_class(error: BaseException) -> str:
    """Return "<class>: <first line>", or only the class name if the message is empty."""
    name, line = type(error).__name__, first_line(error)
    return line if line == name else f"{name}: {line}"


def some(names: Iterable[str], most: int = 3) -> str:
    """Return the first `most` names in order, and how many more there are, for a message."""
    ordered = sorted(names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + more
