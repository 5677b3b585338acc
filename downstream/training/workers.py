"""How many processes pay for an evaluation on this machine.

Small LSTM heads gain nothing from a second CPU thread, so that a process for each thread trains
twice as many in the same time. Other heads, and passes over audio, use the threads of one process.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from mt4ssl_bench.console import quieted
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.device import pick_device
from mt4ssl_bench.downstream.config import RecurrentHeadConfig, TaskConfig
from mt4ssl_bench.downstream.heads.side_by_side import SMALL
from mt4ssl_bench.downstream.job import Job
from mt4ssl_bench.downstream.plan import plan
from mt4ssl_bench.downstream.suite import plan_suite
from mt4ssl_bench.results.suite import read_suite


def pay_on_tasks(tasks: Sequence[str], corpus: Path, overrides: Sequence[str], device: str) -> int:
    """Return how many processes pay for evaluate() with these arguments."""

    def jobs() -> list[Job]:
        opened = Corpus.open(corpus)
        return [plan(name, opened, overrides) for name in tasks]

    return _pay(jobs, device)


def pay_on_suite(suite: str, corpora: Path, overrides: Sequence[str], device: str) -> int:
    """Return how many processes pay for evaluate_suite() with these arguments."""
    return _pay(lambda: plan_suite(read_suite(suite), corpora, overrides).jobs, device)


def _pay(jobs: Callable[[], list[Job]], device: str) -> int:
    threads = torch.get_num_threads()
    if threads == 1 or pick_device(device) != "cpu":
        return 1
    with quieted():  # whoever evaluates says all this again
        heads = [_small_heads(job.config) for job in jobs() if isinstance(job.config, TaskConfig)]
    return max(1, min(threads, max(heads, default=1)))


def _small_heads(config: TaskConfig) -> int:
    """Return the number of small LSTM heads that a task trains."""
    head = config.head
    small = isinstance(head, RecurrentHeadConfig) and head.hidden <= SMALL
    return len(config.rates) * len(config.seeds) if small and config.mode == "frozen" else 0
