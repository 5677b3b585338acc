"""Copies of the log: real files of TensorBoard and of Weights & Biases hold what log.jsonl holds."""

import json
import logging
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from builders import identical, read_log, toy_config, weights_of
from mt4ssl_bench import checkpoint
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.training import track
from mt4ssl_bench.upstream.config import PretrainConfig
from mt4ssl_bench.upstream.pretrain import Pretraining, open_pretraining

Curves = dict[str, dict[int, float]]  # value by name and update
STEPS = ("fit.steps=9", "fit.log_every=1", "fit.validate_every=4", "fit.save_every=3")


def config(corpus: Corpus, *keys: str) -> PretrainConfig:
    return toy_config(f"data.corpus={corpus.root}", *STEPS, *keys)


def logged(run: Path) -> Curves:
    curves: defaultdict[str, dict[int, float]] = defaultdict(dict)
    for line in read_log(run):
        for name, value in line.items():
            if name != "step":
                curves[name][int(line["step"])] = value
    return dict(curves)


def events(run: Path) -> Curves:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(run / "tensorboard"))
    read.Reload()
    return {
        name: {event.step: event.value for event in read.Scalars(name)}
        for name in read.Tags()["scalars"]
    }


def interrupt(config: PretrainConfig, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until update 8 is made and logged: the checkpoint is of update 6."""

    def stop(self: Pretraining, step: int, values: Mapping[str, float]) -> dict[str, float]:
        made = after_step(self, step, values)
        if step == 8:
            raise KeyboardInterrupt
        return made

    after_step = Pretraining.after_step
    with monkeypatch.context() as patch:
        patch.setattr(Pretraining, "after_step", stop)
        with pytest.raises(KeyboardInterrupt):
            open_pretraining(config).run(run)


def same(ours: Curves, theirs: Curves) -> None:
    assert ours.keys() == theirs.keys()
    for name, curve in theirs.items():
        assert ours[name] == pytest.approx(curve, rel=1e-5), name


def test_tensorboard_shows_the_log_also_of_a_run_that_was_resumed(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked = config(corpus, "fit.track=tensorboard")
    run = tmp_path / "run"
    interrupt(tracked, run, monkeypatch)
    before = events(run)
    assert max(before["lr"]) == 7, "flushed, although the run died"
    assert open_pretraining(tracked).run(run).finished
    after = events(run)
    same(after, logged(run))
    assert sorted(after["lr"]) == list(range(1, 10)), "each update once"
    assert {"online", "offline", "valid_online", "online_target_var", "seconds"} <= after.keys()


def test_the_key_belongs_to_no_run_and_changes_no_weight(corpus: Corpus, tmp_path: Path) -> None:
    runs = {kind: tmp_path / kind for kind in ("none", "tensorboard")}
    for kind, run in runs.items():
        open_pretraining(config(corpus, f"fit.track={kind}")).run(run)
        stored = checkpoint.load(run / "checkpoint.pt")
        assert "track" not in stored["config"]["fit"]
        assert "track" not in json.loads((run / "config.json").read_text())["fit"]
    assert identical(*map(weights_of, runs.values()))
    # a run that was made without it is continued with it
    assert open_pretraining(config(corpus, "fit.track=tensorboard")).run(runs["none"]).finished


def records(file: Path) -> Iterator[bytes]:
    """The records of a .wandb file: LevelDB's log format, after seven bytes of a header.

    A block has 32 KiB; a fragment has a checksum, its length, and a type (1: whole, 2: first, 3:
    middle, 4: last).
    """
    data, place, record = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in {1, 4}:
            yield record
            record = b""


def wandb_points(run: Path) -> tuple[set[str], list[dict[str, float]]]:
    """The ids of a folder's offline runs, and what they logged, in the order of writing."""
    from wandb.proto import wandb_internal_pb2

    ids, points = set(), []
    files = (run / "wandb").glob("offline-run-*/*.wandb")
    for data in (d for f in sorted(files, key=lambda f: f.stat().st_mtime) for d in records(f)):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            ids.add(record.run.run_id)
        elif kind == "history":
            point = {
                ".".join(item.nested_key) or item.key: json.loads(item.value_json)
                for item in record.history.item
            }
            points.append({k: v for k, v in point.items() if not k.startswith("_")})
    return ids, points


def test_wandb_offline_holds_the_log_and_a_resumed_run_is_the_same_run(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="the extra [wandb] is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracked, run = config(corpus, "fit.track=wandb"), tmp_path / "run"
    interrupt(tracked, run, monkeypatch)
    assert open_pretraining(tracked).run(run).finished
    ids, points = wandb_points(run)
    assert ids == {(run / "wandb_run").read_text().strip()}
    assert len(list((run / "wandb").glob("offline-run-*"))) == 2
    last: defaultdict[str, dict[int, float]] = defaultdict(dict)
    for point in points:
        for name, value in point.items():
            if name != "step":
                last[name][int(point["step"])] = value
    same(dict(last), logged(run))


@pytest.mark.parametrize("kind", ["tensorboard", "wandb"])
def test_a_missing_extra_is_one_line_before_anything_is_computed(
    kind: track.Kind, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(track, "find_spec", lambda _: None)
    with pytest.raises(ConfigError) as caught:
        open_pretraining(config(corpus, f"fit.track={kind}"))
    assert str(caught.value).startswith(f"fit.track={kind}: needs the extra [{kind}], ")
    assert str(caught.value).endswith(f"; run: pip install 'mt4ssl-bench[{kind}]'")


def test_a_copy_that_cannot_be_opened_stops_the_run_at_once(corpus: Corpus, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "tensorboard").write_text("a file where the folder of the events would be")
    with pytest.raises(ConfigError, match=r"fit\.track=tensorboard: not opened \("):
        open_pretraining(config(corpus, "fit.track=tensorboard")).run(run)
    assert not (run / "log.jsonl").exists()


def test_a_copy_that_fails_later_is_given_up_and_the_run_goes_on(
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing:
        def __init__(self, *_: object) -> None:
            self.lines = 0

        def log(self, _: Mapping[str, float]) -> None:
            self.lines += 1
            if self.lines == 3:
                raise OSError("no space left")

        def close(self) -> None:
            raise AssertionError("closed after it was given up")

    monkeypatch.setattr(track, "_TensorBoard", Failing)
    with caplog.at_level(logging.WARNING):
        assert open_pretraining(config(corpus, "fit.track=tensorboard")).run(tmp_path).finished
    assert caplog.text.count("stopped (OSError: no space left); log.jsonl goes on") == 1
    assert sorted(logged(tmp_path)["lr"]) == list(range(1, 10))
