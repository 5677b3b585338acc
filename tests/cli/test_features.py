"""The command line's features as a user types it: extraction, the store seen and cleared."""

import json
import os
from pathlib import Path

import pytest

from builders import TOY, call
from fakes import Energy
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.features.forward_pass import Pass
from mt4ssl_bench.features.store import FeatureStore, StoreConfig


@pytest.fixture
def store(tmp_path: Path, corpus: Corpus) -> Path:
    """A store with features of two models, those of the second last used in 1970."""
    folder = tmp_path / "store"
    for name in ("loud", "quiet"):
        made = FeatureStore(folder, StoreConfig(precision="int8"))
        made.features(
            Pass(Energy(name)),
            corpus.info.digest,
            "train",
            list(corpus.cuts("train")),
            corpus=corpus.info.name,
        )
    os.utime(next(folder.glob("quiet*/*.index")), (1e6, 1e6))
    return folder


def test_the_store_is_listed_with_whose_features_it_holds(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("store", "list", store) == 0
    said = capsys.readouterr().out
    lines = [line for line in said.splitlines() if "frames int8" in line]
    assert [("loud" in line, "1970" in line) for line in lines] == [(True, False), (False, True)]
    assert all("tones" in line and "train" in line and "0.01" in line for line in lines)
    assert "2 entries" in said


def test_clearing_takes_what_was_asked_for_and_nothing_else(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("store", "clear", store, "--upstream", "lowd") == 2
    assert "did you mean loud" in " ".join(capsys.readouterr().err.split())
    assert call("store", "clear", store, "--upstream", "loud", "--older-than", 1) == 0
    assert "removed 0 entries" in capsys.readouterr().out
    assert call("store", "clear", store, "--older-than", 1) == 0
    assert "removed 1 entries" in capsys.readouterr().out
    assert [folder.name[:4] for folder in store.glob("[!.]*")] == ["loud"]
    assert call("store", "clear", store) == 0
    assert list(store.glob("[!.]*")) == []


@pytest.mark.parametrize("command", [["store", "list"], ["store", "clear"]])
def test_a_folder_that_is_not_there_and_help(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*command, "nowhere") == 2
    assert "error: nowhere: no such feature store" in capsys.readouterr().err
    assert call(*command, "--help") == 0
    assert f"mt4ssl-bench {' '.join(command)} results/store" in " ".join(
        capsys.readouterr().out.split()
    )


def test_extract_prints_where_the_features_are_and_a_second_time_computes_nothing(
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["extract", f"random:{TOY}", "--corpus", corpus.root]
    command += ["--split", "test", "--layer", -1, "--dtype", "fp16"]
    for _ in range(2):
        assert call(*command, "--out", tmp_path) == 0
        assert capsys.readouterr().out == f"{tmp_path / 'index.json'}\n"
        monkeypatch.setattr("mt4ssl_bench.features.forward_pass.Pass._forward", None)
    about = json.loads((tmp_path / "index.json").read_text(encoding="utf-8"))
    assert (about["layer"], about["dtype"], sorted(about["files"])) == (
        2,
        "fp16",
        ["s0-0", "s1-0", "s2-0"],
    )


def test_what_extract_cannot_do_is_said_in_one_line(
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for options, message in (
        (["--corpus", corpus.root, "--layer", "third"], "--layer third: expected a number or all"),
        ([], "name what to read, either --corpus or --folder"),
        (
            ["--corpus", corpus.root, "--folder", tmp_path],
            "name what to read, either --corpus or --folder",
        ),
        (["--corpus", corpus.root, "--units", tmp_path / "nothing"], "nothing: missing or damaged"),
    ):
        assert call("extract", "fbank", "--out", tmp_path / "out", *options) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    assert call("extract", "--help") == 0
    assert "mt4ssl-bench extract runs/first --folder recordings" in " ".join(
        capsys.readouterr().out.split()
    )
