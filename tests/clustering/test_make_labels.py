"""Label stores that are made by several commands at once, or by one that is killed at its end."""

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders import full_disk
from mt4ssl_bench.clustering import make_labels as job
from mt4ssl_bench.clustering.config import OfflineConfig
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.label_store import LabelStore, write_labels
from mt4ssl_bench.data.labels import LabelInfo
from mt4ssl_bench.errors import ConfigError


def make(corpus: Corpus, out: Path, **keys: Any) -> LabelStore:
    config = OfflineConfig(clusters=6, **keys)
    return job.make_labels([corpus], ("train", "valid"), config, out=out, seed=0)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def at_its_end(patch: pytest.MonkeyPatch, act: Callable[[], Any]) -> None:
    """Let something happen once, when the first command is about to write its store."""
    collect, acted = job._collect, []

    def late(*arguments: Any) -> None:
        if not acted:
            acted.append(True)
            act()
        collect(*arguments)

    patch.setattr(job, "_collect", late)


def test_of_two_settings_at_once_the_later_one_is_refused(
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    refused: list[str] = []

    def second() -> None:
        try:
            make(corpus, tmp_path / "labels", normalize="utterance")
        except ConfigError as error:
            refused.append(str(error))

    other = threading.Thread(target=second)

    def begin() -> None:
        other.start()
        while other.is_alive() and "another process is creating it" not in caplog.text:
            time.sleep(0.01)

    at_its_end(monkeypatch, begin)
    store = make(corpus, tmp_path / "labels")
    other.join()
    assert store.info.normalize == LabelStore(tmp_path / "labels").info.normalize == "none"
    (message,) = refused
    assert "holds labels created with different settings" in message
    assert names(tmp_path) == ["labels"]


def test_a_command_that_is_killed_at_its_end_leaves_nothing_that_the_next_one_does_not_remove(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_and_be_killed(monkeypatch, corpus, tmp_path)
    (parts,) = (name for name in names(tmp_path) if name != "labels")
    report = LabelStore(tmp_path / "labels").info.report
    assert report["perplexity"] > 1
    shutil.copytree(tmp_path / parts, tmp_path / "kept")
    assert make(corpus, tmp_path / "labels").info.report == report
    assert names(tmp_path) == ["kept", "labels"]
    # an earlier revision wrote the report after the store
    (tmp_path / "kept").rename(tmp_path / parts)
    index = tmp_path / "labels" / "labels.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"report": {}}))
    assert make(corpus, tmp_path / "labels").info.report == report
    assert names(tmp_path) == ["labels"]


def make_and_be_killed(
    monkeypatch: pytest.MonkeyPatch, corpus: Corpus, folder: Path, **settings: Any
) -> None:
    """Make a store, as a process does that is killed when it removes its parts."""
    rmtree = shutil.rmtree

    def remove(path: Path, *arguments: Any, **keys: Any) -> None:
        if path.parent == folder and (path / "centres.npz").exists():
            raise KeyboardInterrupt
        rmtree(path, *arguments, **keys)

    with monkeypatch.context() as patch:
        patch.setattr(job.shutil, "rmtree", remove)
        with pytest.raises(KeyboardInterrupt):
            make(corpus, folder / "labels", **settings)


def test_parts_of_other_settings_do_not_replace_a_store_without_a_report(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_and_be_killed(monkeypatch, corpus, tmp_path, normalize="utterance")
    made = LabelInfo(digest=corpus.info.digest, clusters=6, made_by="another")
    write_labels(tmp_path / "labels", made, [("a", np.zeros(10))])
    with pytest.raises(ConfigError, match="holds labels created with different settings"):
        make(corpus, tmp_path / "labels", normalize="utterance")
    assert asdict(LabelStore(tmp_path / "labels").info) == asdict(made) | {"frames": 10}


def test_a_full_disk_leaves_the_store_that_was_there_and_nothing_else(tmp_path: Path) -> None:
    info = LabelInfo(digest="d", clusters=2)
    write_labels(tmp_path / "labels", info, [("a", np.zeros(10))])
    with full_disk(4_096), pytest.raises(OSError, match="File too large"):
        write_labels(tmp_path / "labels", info, [("a", np.zeros(10_000))])
    assert names(tmp_path) == ["labels"]
    assert LabelStore(tmp_path / "labels").info.frames == 10
