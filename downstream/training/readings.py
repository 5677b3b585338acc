"""How often an evaluation reads the features of a split."""

from mt4ssl_bench.downstream.job import Job
from mt4ssl_bench.downstream.task import Task


def readings(job: Job, role: str, utterances: int, folds: int = 1) -> float:
    """Return how often a job reads each utterance of a role, of so many."""
    if not issubclass(job.kind, Task):
        return 1.0
    config = job.training
    if role == "train":
        return folds * config.steps * config.accumulate * config.batch / max(utterances, 1)
    validations = config.steps / config.validate_every
    return validations if role == "valid" else len(config.seeds) + min(job.kind.looks, validations)
