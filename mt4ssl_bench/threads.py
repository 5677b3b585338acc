"""CPU threads on a machine that other processes use: their number, and how long idle ones spin.

OpenMP's threads spin while they wait for each other: for long, where one of them has no core.
OpenMP reads its environment variables when torch loads. A variable that the user has set is never
changed. The load of the machine is never read, so that results do not depend on it.
"""

import math
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

# a variable of these is the user's decision; torchrun sets the first one to 1
COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
WAITS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
# iterations in libgomp (torch for Linux), instead of 300,000: see benchmarks/shared_machine.py.
# Sleeping at once, as OMP_WAIT_POLICY=passive does, slows pretraining on a free machine by a fifth.
SPINS = "300"
BLOCKTIME = "1"  # ms, instead of 200: Intel's and LLVM's OpenMP (torch for macOS and Windows)
CGROUPS = Path("/sys/fs/cgroup")


def configure() -> None:
    """Add settings() to the environment of this process, before torch loads."""
    os.environ.update(settings(os.environ, affinity=affinity(), quota=quota()))


def settings(environment: Mapping[str, str], *, affinity: int, quota: float) -> dict[str, str]:
    """Return the variables to add to an environment.

    Args:
        environment: Variables that are set already; theirs is the decision.
        affinity: Cores that the process may run on; OpenMP's own number of threads.
        quota: Cores' worth of time that control groups allow; infinite without a limit.
    """
    chosen = {}
    if not any(environment.get(name) for name in WAITS):
        chosen = {"GOMP_SPINCOUNT": SPINS, "KMP_BLOCKTIME": BLOCKTIME}
    if quota < affinity and not any(environment.get(name) for name in COUNTS):
        chosen["OMP_NUM_THREADS"] = str(max(1, math.floor(quota)))
    return chosen


def affinity() -> int:
    """Return the number of cores that the process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS and Windows do not have it


def quota(root: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> float:
    """Return the cores' worth of time that control groups allow; infinite without a limit.

    A parent's limit holds for its children. OpenMP itself does not read control groups: in a
    container with `--cpus 2` it starts a thread for each core of the machine.

    Args:
        root: Where control groups are mounted.
        own: The groups of the process, a line `number:controllers:path` for each hierarchy.
    """
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return math.inf
    limits = [math.inf]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # version 2 has one hierarchy, without controllers; in a container, `path` may be the host's
        base = root / "cpu" if controllers else root
        group = base / path.strip("/")
        limits += [_limit(each) for each in (group, *group.parents) if each.is_relative_to(base)]
    return min(limits)


def _limit(group: Path) -> float:
    """Return the limit of one control group, of version 2 (`cpu.max`) or 1."""
    try:
        if (file := group / "cpu.max").exists():
            limit, period = file.read_text(encoding="utf-8").split()
        else:
            limit, period = (
                (group / f"cpu.cfs_{name}_us").read_text(encoding="utf-8").strip()
                for name in ("quota", "period")
            )
    except OSError:  # the group is not mounted here, or the root of all groups
        return math.inf
    return math.inf if limit in {"max", "-1"} else int(limit) / int(period)


@contextmanager
def side_by_side(count: int) -> Iterator[Executor]:
    """Yield an executor of up to `count` Python threads, each of which computes on one CPU thread.

    For many small operations, after each of which the threads of one computation would wait for
    each other. There are at most as many as torch's threads, whose number a user may have set.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for this thread, and those that start from now on
    try:
        with ThreadPoolExecutor(min(count, threads)) as executor:
            yield executor
    finally:
        torch.set_num_threads(threads)
