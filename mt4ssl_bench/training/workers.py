"""A command in several processes on this machine, started by torch's elastic launcher."""

import logging
import os
import signal
import sys
from collections.abc import Sequence

import torch

from mt4ssl_bench.errors import INTERRUPTED, TrainingError


def under_launcher() -> bool:
    """Return whether torchrun, or run_workers(), has started this process."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def run_workers(count: int, arguments: Sequence[str]) -> int:
    """Run a command line in `count` processes, and return its exit code.

    They divide the CPU threads of this process. All write to its terminal: the first one progress
    and results, and the one that fails first its error.

    Raises:
        TrainingError: If a process is killed; the others are stopped.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # one line, from here
    threads = str(max(1, torch.get_num_threads() // count))
    os.environ |= {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "120")  # seconds to save after a signal
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id=str(os.getpid()),
        max_restarts=0,
        monitor_interval=0.1,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "mt4ssl_bench", *arguments)
    except SignalException:
        return INTERRUPTED
    except ChildFailedError as error:
        # the launcher stops the others by SIGTERM
        causes = {r: f for r, f in error.failures.items() if f.exitcode != -signal.SIGTERM}
        causes = causes or error.failures
        rank, failure = min(causes.items(), key=lambda cause: cause[1].exitcode)
        if failure.exitcode > 0:  # it has printed why
            return int(failure.exitcode)
        raise TrainingError(
            f"process {rank} of {count} (pid {failure.pid}) was killed by "
            f"{failure.signal_name()}, and the others were stopped; what was complete is kept, and "
            "the same command continues"
        ) from None
    return 0
