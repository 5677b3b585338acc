"""Shared fixtures: a tiny synthetic corpus for fast tests, and real speech where it is there."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import TCPStore

from builders import write_tones
from mt4ssl_bench.corpora.prepare import prepare_table
from mt4ssl_bench.data.corpus import Corpus

SPEECH = os.environ.get("MT4SSL_BENCH_SPEECH", "")


@pytest.fixture(autouse=True)
def logger() -> Iterator[logging.Logger]:
    """The package's logger as a library has it: commands in this process set it up for stderr."""
    log = logging.getLogger("mt4ssl_bench")
    before = (log.handlers, log.level, log.propagate)
    log.handlers, log.propagate = [], True
    log.setLevel(logging.NOTSET)
    yield log
    log.handlers, log.level, log.propagate = before


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="session")
def corpus(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return prepare_table(
        manifest, tmp_path_factory.mktemp("corpora") / "tones", name="tones", synthetic=True
    )


@pytest.fixture(scope="session")
def speech() -> Path:
    """The folder of real recorded speech; tests that use it are marked `speech`."""
    if not SPEECH or not Path(SPEECH).is_dir():
        pytest.skip(
            "real speech is not here: set MT4SSL_BENCH_SPEECH to a folder that holds "
            "fsdd_strings/manifest.tsv"
        )
    return Path(SPEECH)


class Prefork:
    """Processes that run the command line and start in a moment; see fixtures/prefork.py."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.stores: list[TCPStore] = []
        command = [sys.executable, str(Path(__file__).parent / "fixtures" / "prefork.py")]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def _ask(self, question: dict[str, Any]) -> int:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(question) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def start(self, *argv: str, **env: str) -> tuple[int, Path]:
        """Return the pid and the file that takes what the process says."""
        self.count += 1
        out = self.folder / f"said-{self.count}.txt"
        return self._ask({"argv": argv, "env": env, "out": str(out)}), out

    def wait(self, pid: int) -> int:
        """Return the exit code, negative for a signal."""
        return self._ask({"wait": pid})

    def world(self, size: int, *argv: str) -> list[tuple[int, Path]]:
        """Start the processes of one run, as torchrun would: it keeps the store where they meet."""
        store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
        self.stores.append(store)
        env = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port), "WORLD_SIZE": str(size)}
        env |= {"TORCHELASTIC_USE_AGENT_STORE": "True"}
        return [
            self.start(*argv, **env, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(size)
        ]


@pytest.fixture(scope="session")
def prefork(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefork]:
    server = Prefork(tmp_path_factory.mktemp("prefork"))
    yield server
    assert server.server.stdin is not None
    server.server.stdin.close()
    server.server.wait(timeout=30)
