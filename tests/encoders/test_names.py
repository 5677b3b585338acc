"""Names on the command line: paths against keys, and folders against the names of s3prl's hub."""

import logging
from pathlib import Path

import pytest
from typer.testing import CliRunner

from builders import recipe, write_run
from mt4ssl_bench.cli.app import app
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.encoders.load import load_upstream
from mt4ssl_bench.encoders.names import split_keys
from mt4ssl_bench.errors import CheckpointError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("argument", "is_key"),
    [
        ("lr=1e-3", True),
        ("optim.lr=1e-3", True),
        ("decode.lm=a=b.arpa", True),
        ("store.precision=bf16", True),
        ("runs/lr=1e-3", False),
        ("./lr=1e-3", False),
        ("hf:models/lr=1e-3", False),
        ("hubert_local:a=b.pt", False),
        ("fbank", False),
    ],
)
def test_a_key_is_told_from_a_path(argument: str, is_key: bool) -> None:  # noqa: FBT001
    names, keys = split_keys([argument])
    assert (names, keys) == (([], [argument]) if is_key else ([argument], []))


def test_a_path_that_exists_wins_over_a_key(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "lr=1e-3").mkdir()
    (folder / "x=1").mkdir()
    (folder / "x=1" / "a.py").touch()
    with caplog.at_level(logging.INFO):
        assert split_keys(["lr=1e-3", "x=1/a.py:B", "steps=3"]) == (
            ["lr=1e-3", "x=1/a.py:B"],
            ["steps=3"],
        )
    assert "lr=1e-3: taken as the path that exists here" in caplog.text


def test_a_run_with_an_equals_sign_is_evaluated(corpus: Corpus, folder: Path) -> None:
    write_run(folder / "runs" / "lr=1e-3")
    write_run(folder / "lr=2e-3")
    arguments = [
        "evaluate",
        "runs/lr=1e-3",
        "lr=2e-3",
        "steps=2",
        "--task",
        recipe("phoneme"),
    ]
    done = CliRunner().invoke(app, [*arguments, "--corpus", str(corpus.root), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "lr=2e-3" in done.output


def test_a_folder_is_ours_only_if_it_holds_a_checkpoint(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub = load_upstream("fbank").fingerprint
    (folder / "fbank").mkdir()
    (folder / "mel").write_text("notes", encoding="utf-8")
    with caplog.at_level(logging.INFO):
        assert load_upstream("fbank").fingerprint == hub
        assert load_upstream("mel").name == "mel"
    assert "fbank: taken as the hub's upstream; ./fbank holds no checkpoint.pt" in caplog.text
    caplog.clear()
    ours = load_upstream(str(write_run(folder / "fbank").resolve())).fingerprint
    with caplog.at_level(logging.INFO):
        assert load_upstream("fbank").fingerprint == ours
    assert "fbank: taken as the run ./fbank, not as the hub's upstream" in caplog.text
    assert load_upstream("s3prl:fbank").fingerprint == hub
    assert load_upstream("./fbank").fingerprint == ours
    write_run(folder / "mt4ssl")
    assert load_upstream("mt4ssl").fingerprint == ours
    (folder / "mine").mkdir()
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_upstream("mine")
