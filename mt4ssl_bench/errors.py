"""What a user can do wrong: each error is one line that says what is wrong, what would be right and what to run."""

from collections.abc import Iterable


class BenchError(Exception):
    """Any error whose message is meant for the user; the command line prints it in one line and exits with code 2."""


class ConfigError(BenchError):
    """A recipe, key or name that does not exist or does not fit."""


class CorpusError(BenchError):
    """A corpus, manifest or audio file that cannot be used as asked."""


class CheckpointError(BenchError):
    """A checkpoint or store that is damaged, foreign or made from something else."""


class UpstreamError(BenchError):
    """A model that cannot be loaded or breaks the Upstream protocol."""


class TrainingError(BenchError):
    """A run that must stop: collapsed, not finite, or unable to save."""


def some(names: Iterable[str], most: int = 3) -> str:
    """Return the first `most` names in order, and how many more there are, for a message."""
    ordered = sorted(names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + more
