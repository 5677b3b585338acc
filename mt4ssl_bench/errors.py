"""What a user can do wrong: each error is one line that says what is wrong, what would be right and what to run."""


class BenchError(Exception):
    """Any error whose message is meant for the user; the command line prints it in one line and exits with code 2."""


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
