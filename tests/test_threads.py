"""CPU threads: the policy as a function, in a separate process, and around a head's training."""

import contextlib
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mt4ssl_bench import threads
from mt4ssl_bench.downstream.config import RecurrentHeadConfig
from mt4ssl_bench.downstream.heads.linear import LinearHead
from mt4ssl_bench.downstream.heads.recurrent import RecurrentHead
from mt4ssl_bench.downstream.heads.side_by_side import serial

WAITING = {"GOMP_SPINCOUNT": threads.SPINS, "KMP_BLOCKTIME": threads.BLOCKTIME}


@pytest.mark.parametrize(
    ("environment", "affinity", "quota", "expected"),
    [
        ({}, 2, math.inf, WAITING),
        ({}, 64, 2.0, {**WAITING, "OMP_NUM_THREADS": "2"}),
        ({}, 64, 2.5, {**WAITING, "OMP_NUM_THREADS": "2"}),
        ({}, 64, 0.5, {**WAITING, "OMP_NUM_THREADS": "1"}),
        ({}, 2, 2.0, WAITING),
        ({"OMP_NUM_THREADS": "8"}, 64, 2.0, WAITING),
        ({"MKL_NUM_THREADS": "8"}, 64, 2.0, WAITING),
        ({"OMP_NUM_THREADS": ""}, 64, 2.0, {**WAITING, "OMP_NUM_THREADS": "2"}),
        ({"OMP_WAIT_POLICY": "active"}, 2, math.inf, {}),
        ({"GOMP_SPINCOUNT": "7"}, 2, math.inf, {}),
        ({"KMP_BLOCKTIME": "infinite"}, 2, math.inf, {}),
        ({"KMP_LIBRARY": "turnaround"}, 64, 1.0, {"OMP_NUM_THREADS": "1"}),
    ],
)
def test_only_what_the_user_has_not_set_is_set(
    environment: dict[str, str], affinity: int, quota: float, expected: dict[str, str]
) -> None:
    assert threads.settings(environment, affinity=affinity, quota=quota) == expected


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {}, math.inf),  # a machine without limits
        ("0::/\n", {"cpu.max": "150000 100000"}, 1.5),  # in a container, version 2
        ("0::/a/b\n", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3.0),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "50000 50000"}, 1.0),
        ("0::/docker/f00\n", {"cpu.max": "200000 100000"}, 2.0),  # the host's path in a container
        ("0::/a:b\n", {"a:b/cpu.max": "200000 100000"}, 2.0),
        (
            "4:memory:/x\n3:cpu,cpuacct:/a\n0::/\n",
            {
                "cpu/a/cpu.cfs_quota_us": "400000",
                "cpu/a/cpu.cfs_period_us": "100000",
            },
            4.0,
        ),
        (
            "1:cpu:/\n0::/\n",
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
            math.inf,
        ),
        ("3:cpuset:/\n", {"cpuset/cpu.max": "100000 100000"}, math.inf),  # another controller
    ],
)
def test_the_tightest_limit_of_the_control_groups_counts(
    tmp_path: Path, own: str, files: dict[str, str], expected: float
) -> None:
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        file = tmp_path / "root" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    assert threads.quota(tmp_path / "root", tmp_path / "own") == expected


def test_a_system_without_control_groups_has_no_limit(tmp_path: Path) -> None:
    assert threads.quota(tmp_path, tmp_path / "none") == math.inf


# a command that loads torch, then fails: there is no such corpus
COMMAND = """
import os, sys
from mt4ssl_bench.cli import main
assert "torch" not in sys.modules
if CORES: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
sys.argv = ["mt4ssl-bench", "evaluate", "fbank", "--task", "asr", "--corpus", "nowhere"]
try:
    main()
except SystemExit as end:
    import torch
    print(end.code, torch.get_num_threads())
"""


def openmp(cores: int = 0, **variables: str) -> tuple[str, dict[str, str]]:
    """Return what the command prints, and what libgomp reports to have read when it was loaded."""
    clean = {k: v for k, v in os.environ.items() if k not in (*threads.COUNTS, *threads.WAITS)}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND.replace("CORES", str(cores))],
        env=clean | variables | {"OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.partition("] ")[2] or line for line in done.stderr.splitlines() if " = '" in line]
    pairs = [line.strip().split(" = ") for line in lines]
    return done.stdout.split("\n")[-2], {name: value.strip("'") for name, value in pairs}


@pytest.mark.skipif(sys.platform != "linux", reason="torch has libgomp on Linux only")
@pytest.mark.long
def test_openmp_reads_the_policy_when_a_command_loads_torch() -> None:
    printed, values = openmp()
    assert values["GOMP_SPINCOUNT"] == threads.SPINS
    # without limits of control groups, a thread for each core
    assert int(printed.split()[1]) <= len(os.sched_getaffinity(0))
    printed, values = openmp(cores=1)
    assert printed == "2 1"
    printed, values = openmp(OMP_NUM_THREADS="1", GOMP_SPINCOUNT="77")  # torchrun's number
    assert printed == "2 1"
    assert values["GOMP_SPINCOUNT"] == "77"
    _, values = openmp(OMP_WAIT_POLICY="passive")
    assert values["GOMP_SPINCOUNT"] == "0"


def test_the_number_of_threads_comes_back_after_an_error() -> None:
    before, during = torch.get_num_threads(), 0
    torch.set_num_threads(2)
    try:
        with contextlib.suppress(KeyboardInterrupt), threads.side_by_side(3) as executor:
            during = executor.submit(torch.get_num_threads).result()
            raise KeyboardInterrupt
        assert (during, torch.get_num_threads()) == (1, 2)
    finally:
        torch.set_num_threads(before)


def test_the_heads_of_the_full_recipe_use_all_threads() -> None:
    small = RecurrentHeadConfig(projection=8, hidden=128, lstm_layers=1)
    assert serial(RecurrentHead(1, 4, 3, small))
    assert not serial(LinearHead(1, 4, 3, small))
    with torch.device("meta"):
        assert not serial(RecurrentHead(1, 4, 3, small))  # not on a CPU
    assert not serial(RecurrentHead(1, 4, 3, RecurrentHeadConfig(projection=8, lstm_layers=1)))
