"""Errors for users: each message is one line with the fault, the expected value and the remedy."""

from collections.abc import Iterable

INTERRUPTED = 130  # the exit code after Ctrl-C


class BenchError(Exception):
    """An error with a message for the user.

    The command line prints it on one line and exits with code 2.
    """


class ConfigError(BenchError):
    """A recipe, key or name that does not exist or has an invalid value."""


class CorpusError(BenchError):
    """A corpus, manifest or audio file that cannot be used."""


class AudioChangedError(BenchError):
    """An audio file that changed since prepare; no CorpusError, as some callers skip those."""


class CheckpointError(BenchError):
    """A checkpoint, record or store that is damaged, or of another toolkit or source."""


class UpstreamError(BenchError):
    """A model that cannot be loaded or does not conform to the Upstream protocol."""


class TrainingError(BenchError):
    """A run that must stop: collapsed, not finite, or without room to save."""


class DivergedError(TrainingError):
    """A loss, gradient or output that is not finite, in every process: another rate may do."""


class OutOfStepError(BenchError):
    """One of several processes that train one model failed alone, and the others wait for it."""


def lines(error: BaseException | str) -> list[str]:
    """Return the lines of an error's message that are not blank, or its class name."""
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
