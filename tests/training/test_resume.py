"""Interrupted rows: by kill -9, signals, a full disk, damaged or strange checkpoints, other
processes.
"""

import json
import logging
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from builders import TOY, Prefork, full_disk, identical, recipe
from mt4ssl_bench import checkpoint, results
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.downstream.evaluate import evaluate
from mt4ssl_bench.training import run_folder
from mt4ssl_bench.training.fit import Fit

MODEL = f"random:{TOY}"
ROWS = {  # an LSTM head at three rates and two seeds, one of which stops early; and a whole model
    "frozen": [
        *["--task", recipe("asr"), "sweep=[1e-2,1e-9]", "seeds=[0,1]"],
        *["head.lstm_layers=2", "head.dropout=0.2", "head.spec_augment=true"],
        *["steps=60", "validate_every=10", "patience=2", "accumulate=2"],
    ],
    "tuned": [
        *["--task", recipe("asr_finetune"), "sweep=[1e-2,3e-3]"],
        *["steps=40", "validate_every=10", "tune.dropout=0.1", "tune.layer_drop=0.2"],
    ],
}


def command(corpus: Corpus, out: Path, row: str, *keys: str) -> list[str]:
    where = ["--corpus", str(corpus.root), "--out", str(out), "--device", "cpu"]
    return ["evaluate", MODEL, *ROWS[row], *keys, *where]


def outputs(out: Path) -> tuple[dict[str, Any], bytes, dict[str, Any]]:
    """Return the record, the hypotheses and the model, without the times in them."""
    (path,) = out.glob("*.json")
    record = json.loads(path.read_text())
    for key in ("created", "wall_seconds", "git"):
        del record[key]
    model = checkpoint.load(out / "runs" / path.stem / "model.pt")
    del model["training"]["seconds"]
    return record, results.hypotheses_path(path).read_bytes(), model


def assert_same(ours: Path, theirs: Path) -> None:
    (record, answers, model), (record_2, answers_2, model_2) = outputs(ours), outputs(theirs)
    assert record == record_2
    assert answers == answers_2
    assert identical(model, model_2)
    assert not list((ours / "runs").rglob("checkpoint.pt")), "removed with the finished row"


def checkpoints(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_ino for path in (out / "runs").rglob("checkpoint.pt")}


def wait_for_checkpoints(out: Path, said: Path, writes: int) -> None:
    """Wait until a row's checkpoint has been written so many times."""
    states: list[dict[Path, int]] = []
    while len(states) < writes:
        now = checkpoints(out)
        if now and now not in states:
            states.append(now)
        assert not list(out.glob("*.json")), said.read_text()
        time.sleep(0.002)


def wait_for(text: str, said: Path, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while text not in (said.read_text() if said.exists() else ""):
        assert time.monotonic() < end, said.read_text()
        time.sleep(0.01)


@pytest.fixture(scope="module", params=list(ROWS))
def whole(
    request: pytest.FixtureRequest,
    corpus: Corpus,
    prefork: Prefork,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Path]:
    """A row and the folder of its uninterrupted evaluation."""
    out = tmp_path_factory.mktemp(request.param)
    child, said = prefork.start(*command(corpus, out, request.param))
    assert prefork.wait(child) == 0, said.read_text()
    return request.param, out


def test_a_killed_row_continues_to_the_same_bits_in_the_process_that_waits_for_it(
    whole: tuple[str, Path], corpus: Corpus, prefork: Prefork, tmp_path: Path
) -> None:
    row, there = whole
    argv = command(corpus, tmp_path, row)
    first, said = prefork.start(*argv)
    wait_for_checkpoints(tmp_path, said, 1)
    os.kill(first, signal.SIGSTOP)  # it holds its row, however slowly the second one starts
    second, said = prefork.start(*argv)
    wait_for("waiting for the process that computes it", said)
    os.kill(first, signal.SIGKILL)
    assert prefork.wait(first) == -signal.SIGKILL
    trained = list((tmp_path / "runs").rglob("model.pt"))  # it may have come so far
    assert prefork.wait(second) == 0, said.read_text()
    assert trained or "continuing from update" in said.read_text()
    assert_same(tmp_path, there)


@pytest.mark.long
def test_a_row_killed_ten_times_ends_with_the_same_bits(
    whole: tuple[str, Path], corpus: Corpus, prefork: Prefork, tmp_path: Path
) -> None:
    row, there = whole
    out, chance, kills = tmp_path / "killed", random.Random(0), 0  # noqa: S311
    argv = command(corpus, out, row)
    while kills < 10:
        child, said = prefork.start(*argv)
        before = checkpoints(out)
        if kills % 3:  # not before it has got a little further
            while checkpoints(out) in ({}, before) and not list(out.glob("*.json")):
                time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.3 if kills % 3 else 2))
        os.kill(child, signal.SIGKILL)
        if prefork.wait(child) == 0:  # it had come to its end
            assert_same(out, there)
            shutil.rmtree(out)
        else:
            kills += 1
    child, said = prefork.start(*argv)
    assert prefork.wait(child) == 0, said.read_text()
    assert_same(out, there)


@pytest.mark.parametrize("row", list(ROWS))
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_row_and_the_exit_code_is_130(
    corpus: Corpus, prefork: Prefork, tmp_path: Path, row: str, number: signal.Signals
) -> None:
    child, said = prefork.start(*command(corpus, tmp_path, row, "steps=100000", "patience=0"))
    wait_for_checkpoints(tmp_path, said, 1)
    (file,) = checkpoints(tmp_path)
    before = checkpoint.load(file)["step"]
    os.kill(child, number)
    assert prefork.wait(child) == 130
    assert "the same command continues" in said.read_text()
    assert "Traceback" not in said.read_text()
    assert checkpoint.load(file)["step"] > before


def test_two_processes_share_the_rows_and_both_end_with_all_of_them(
    corpus: Corpus, prefork: Prefork, tmp_path: Path
) -> None:
    tasks = ["--task", recipe("phoneme"), "--task", recipe("speaker")]
    argv = ["evaluate", MODEL, *tasks, "--corpus", str(corpus.root), "--out", str(tmp_path)]
    children = [prefork.start(*argv) for _ in range(2)]
    for child, said in children:
        assert prefork.wait(child) == 0, said.read_text()
    texts = [said.read_text() for _, said in children]
    results = {
        line.split(maxsplit=1)[1] for t in texts for line in t.splitlines() if " -> " in line
    }
    assert len(results) == 2, "each row has one result, whichever process computed it"
    for text in texts:
        table = text[text.rindex("upstream") :]
        assert "phoneme" in table
        assert "speaker" in table


# ---- in this process: a row that ends in the middle, without a final save ----


class End(Exception):  # noqa: N818 - an interruption
    """What stops an update in the middle of a row."""


def frozen(corpus: Corpus, out: Path, *keys: str) -> Any:
    keys = ("steps=12", "validate_every=3", "sweep=[1e-2,1e-3]", *keys)
    return evaluate([MODEL], [recipe("asr")], corpus.root, out=out, overrides=[*keys], device="cpu")


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a checkpoint after every update."""
    monkeypatch.setattr(run_folder, "SHARE", 1e9)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """This package's log."""
    caplog.set_level(logging.INFO, logger="mt4ssl_bench")
    return caplog


def broken_off(corpus: Corpus, out: Path, *keys: str, step: int = 7) -> Path:
    """Evaluate a row that breaks off in an update, and return its checkpoint."""
    update = Fit._update

    def end(self: Any, *arguments: Any) -> Any:
        if self.state.step == step:
            raise End
        return update(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fit, "_update", end)
        assert frozen(corpus, out, *keys).failures
    (file,) = checkpoints(out)
    assert checkpoint.load(file)["step"] == step
    return file


@pytest.fixture(scope="module")
def plain(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small row that nothing interrupted."""
    out = tmp_path_factory.mktemp("plain")
    assert not frozen(corpus, out).failures
    return out


def test_a_row_that_broke_off_continues(
    corpus: Corpus, tmp_path: Path, plain: Path, always: None, said: pytest.LogCaptureFixture
) -> None:
    broken_off(corpus, tmp_path)
    frozen(corpus, tmp_path)
    assert "continuing from update 7 of 12" in said.text
    assert_same(tmp_path, plain)


def truncated(file: Path) -> str:
    file.write_bytes(file.read_bytes()[:-5000])
    return "truncated, damaged"


def flipped(file: Path) -> str:
    """Change a byte of a weight: torch would load it."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)
    return "fails its checksum"


def empty(file: Path) -> str:
    file.write_bytes(b"")
    return "truncated, damaged"


def other(file: Path) -> str:
    stored = checkpoint.load(file)
    stored["recipe"]["clip_norm"] = 5.0
    checkpoint.save(stored, file)
    return "holds a run with other settings (recipe.clip_norm: 5.0 there, not set here)"


def larger(file: Path) -> str:
    stored = checkpoint.load(file)
    stored["model"]["0.output.bias"] = torch.zeros(99)
    checkpoint.save(stored, file)
    return "holds a run of another model (0.output.bias: [99] there"


def bare(file: Path) -> str:
    checkpoint.save({"model": checkpoint.load(file)["model"]}, file)
    return "holds a model but not the state of its training"


@pytest.mark.parametrize("harm", [truncated, flipped, empty, other, larger, bare])
def test_a_checkpoint_that_cannot_be_continued_is_named_and_the_row_begins_anew(
    corpus: Corpus,
    tmp_path: Path,
    plain: Path,
    always: None,
    said: pytest.LogCaptureFixture,
    harm: Callable[[Path], str],
) -> None:
    reason = harm(broken_off(corpus, tmp_path))
    said.clear()
    assert not frozen(corpus, tmp_path).failures
    (line,) = [line for line in said.messages if "the training restarts" in line]
    assert reason in line
    assert "continuing" not in said.text
    assert_same(tmp_path, plain)


def test_a_row_continues_from_live_features_to_stored_ones(
    corpus: Corpus, tmp_path: Path, plain: Path, always: None, said: pytest.LogCaptureFixture
) -> None:
    broken_off(corpus, tmp_path, "store.limit_gb=0")
    assert not frozen(corpus, tmp_path).failures
    assert "continuing from update 7 of 12" in said.text
    record, answers, _ = outputs(tmp_path)
    record_2, answers_2, _ = outputs(plain)
    # a batch is padded otherwise in the two, which moves the last bit of some features
    assert record.pop("layer_weights") == pytest.approx(record_2.pop("layer_weights"), abs=1e-6)
    assert record == record_2
    assert answers == answers_2


def test_a_full_disk_costs_a_warning_and_not_the_row(
    corpus: Corpus, tmp_path: Path, plain: Path, always: None, said: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(plain / "store", tmp_path / "store")
    model = next((plain / "runs").rglob("model.pt")).stat().st_size
    with full_disk(2 * model):  # a checkpoint takes eight times the head
        assert not frozen(corpus, tmp_path).failures
    (line,) = [line for line in said.messages if "could not be saved" in line]
    assert "File too large" in line
    assert "no result depends on it" in line
    assert_same(tmp_path, plain)


def test_a_row_that_ends_after_its_training_is_not_trained_again(
    corpus: Corpus, tmp_path: Path, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*arguments: Any, **options: Any) -> Any:
        raise End

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mt4ssl_bench.downstream.evaluate.write_record", end)
        assert frozen(corpus, tmp_path).failures
    monkeypatch.setattr(Fit, "_update", end)
    assert not frozen(corpus, tmp_path).failures
    assert_same(tmp_path, plain)


def test_writing_checkpoints_takes_a_hundredth_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, cost, written = 0.0, 3.0, []

    def save(payload: Any, path: Path) -> None:
        nonlocal now
        written.append(now)
        now += cost

    monkeypatch.setattr(run_folder.time, "monotonic", lambda: now)
    monkeypatch.setattr(run_folder.checkpoint, "save", save)
    folder = run_folder.PassingFolder(tmp_path, {}, size=int(2 * run_folder.SPEED))
    for step in range(5_000):
        now += 1.0
        assert cost * len(written) <= 0.01 * now + 1, "but for the first one's wrong guess"
        if folder.due(step, every=1, last=False):
            folder.save({})
    assert written[0] == 200  # the guess: 2 s at a hundred megabytes a second
    assert 0.009 * now <= cost * len(written) <= 0.01 * now
    assert not folder.due(5_000, every=1, last=True), "the model follows at once"
