"""Shared fixtures: a tiny synthetic corpus for fast tests, and real speech where it is there."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import builders
from builders import Prefork, write_tones
from mt4ssl_bench.corpora.prepare import prepare
from mt4ssl_bench.corpora.sources.table import read_table
from mt4ssl_bench.data.corpus import Corpus

SPEECH = os.environ.get("MT4SSL_BENCH_SPEECH", "")
torch.set_num_threads(1)  # a command in this process starts no workers


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
    out = tmp_path_factory.mktemp("corpora") / "tones"
    return prepare(
        read_table(manifest),
        out,
        source=manifest,
        name="tones",
        strict=True,
        phones_from="manifest",
        synthetic=True,
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


@pytest.fixture(scope="session")
def prefork() -> Prefork:
    return builders.prefork()
