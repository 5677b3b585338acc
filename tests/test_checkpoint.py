"""Checkpoints are written whole or not at all, read without unpickling objects, and told apart by
their weights.
"""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from builders import write_run
from mt4ssl_bench import checkpoint
from mt4ssl_bench.encoders.load import load_upstream
from mt4ssl_bench.errors import CheckpointError


def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "a.weight": torch.randn(3, 2, generator=generator),
        "a.bias": torch.zeros(2),
        "steps": torch.tensor(7),
        "half": torch.randn(4, generator=generator).to(torch.bfloat16),
        "mask": torch.tensor([True, False]),
        "none": torch.zeros(0, 5),
    }


class Evil:
    """An object whose unpickling leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_what_is_saved_is_loaded_with_its_containers(tmp_path: Path) -> None:
    path = tmp_path / "run" / "checkpoint.pt"
    payload = {
        "model": weights(),
        "step": 3,
        "config": {"lr": 1e-3, "betas": (0.9, 0.98), "names": ["x"]},
    }
    checkpoint.save(payload, path)
    loaded = checkpoint.load(path)
    assert loaded["format"] == "mt4ssl-bench 1"
    assert (loaded["step"], loaded["config"]) == (3, payload["config"])
    assert list(loaded["model"]) == list(weights())
    assert all(torch.equal(loaded["model"][name], value) for name, value in weights().items())
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.pt"]


def test_saving_again_replaces_the_file_while_what_was_loaded_from_it_stays(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.save({"w": torch.zeros(1000)}, path)
    old = checkpoint.load(path)
    checkpoint.save({"w": torch.ones(1000)}, path)
    assert checkpoint.load(path)["w"].sum() == 1000
    assert old["w"].sum() == 0


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("PytorchStreamWriter failed")]
)
def test_when_writing_fails_the_old_file_stays_and_nothing_else_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.save({"step": 1}, path)

    def half(payload: object, file: Any) -> None:
        file.write(b"half of it")
        raise error

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.save({"step": 2}, path)
    assert (
        str(caught.value)
        == f"{path}: could not be saved ({error}); the previous one, if any, is untouched"
    )
    monkeypatch.undo()
    assert checkpoint.load(path)["step"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_stays_until_the_new_one_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.save({"step": 1}, path)
    seen = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(checkpoint.load(path)["step"]))
    checkpoint.save({"step": 2}, path)
    assert seen == [1]
    assert checkpoint.load(path)["step"] == 2


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone\.pt: no such checkpoint$"):
        checkpoint.load(tmp_path / "gone.pt")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path: Path, share: float) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.save({"model": {"w": torch.randn(1000)}}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(
        CheckpointError, match=r"checkpoint\.pt: truncated, damaged or not a checkpoint of tensors"
    ):
        checkpoint.load(path)


def damage(path: Path, place: float = 0.5) -> None:
    """Flip 1,000 bytes, as a bad disk or a broken copy does."""
    content = bytearray(path.read_bytes())
    start = int(len(content) * place)
    content[start : start + 1000] = bytes(byte ^ 0xFF for byte in content[start : start + 1000])
    path.write_bytes(content)


def test_a_weight_that_changed_on_the_disk_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    checkpoint.save({"model": {"v": torch.zeros(9), "w": torch.zeros(9000)}}, path)
    damage(path)
    with pytest.raises(
        CheckpointError, match=r"model\.pt: damaged \(archive/data/1 fails its check"
    ):
        checkpoint.load(path)


@pytest.mark.parametrize("place", [0.0, 0.01, 0.97, 0.99])
def test_damage_to_what_describes_the_weights_is_named(tmp_path: Path, place: float) -> None:
    path = tmp_path / "model.pt"
    checkpoint.save({"model": {"w": torch.zeros(9000)}}, path)
    damage(path, place)
    with pytest.raises(CheckpointError, match=r"model\.pt: (truncated, )?damaged"):
        checkpoint.load(path)


def test_a_damaged_model_is_not_evaluated(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    damage(run / "checkpoint.pt")
    with pytest.raises(CheckpointError, match="fails its checksum"):
        load_upstream(str(run))


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a checkpoint", encoding="utf-8")
    with pytest.raises(
        CheckpointError, match=r"notes\.txt: truncated, damaged or not a checkpoint"
    ):
        checkpoint.load(path)


@pytest.mark.parametrize(
    "payload", [{"model": {"w": torch.zeros(2)}}, {"format": "mt4ssl-bench 0"}, [1, 2]]
)
def test_a_checkpoint_of_another_program_or_format_is_named(
    tmp_path: Path, payload: object
) -> None:
    path = tmp_path / "foreign.pt"
    torch.save(payload, path)
    with pytest.raises(
        CheckpointError, match=r"foreign\.pt: not a checkpoint of mt4ssl-bench \(format "
    ):
        checkpoint.load(path)


def test_an_object_in_a_checkpoint_is_refused_and_its_code_is_not_run(tmp_path: Path) -> None:
    for name, write in (("torch.pt", torch.save), ("plain.pt", _pickle)):
        path, trace = tmp_path / name, tmp_path / f"{name} was here"
        write({"format": checkpoint.FORMAT, "model": Evil(trace)}, path)
        with pytest.raises(CheckpointError, match="holds objects|not a checkpoint of tensors"):
            checkpoint.load(path)
        assert not trace.exists()


def _pickle(payload: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(payload))


def test_equal_weights_have_one_fingerprint_in_any_order_and_layout() -> None:
    first = checkpoint.fingerprint(weights())
    assert len(first) == 16
    assert checkpoint.fingerprint(dict(reversed(weights().items()))) == first
    strided = weights() | {"a.weight": weights()["a.weight"].t().contiguous().t()}
    assert not strided["a.weight"].is_contiguous()
    assert checkpoint.fingerprint(strided) == first
    assert (
        checkpoint.fingerprint({name: value.clone() for name, value in weights().items()}) == first
    )


def test_a_fingerprint_is_the_same_on_every_machine_and_in_every_release() -> None:
    assert checkpoint.fingerprint({"w": torch.tensor([1.0, 2.0])}) == "3c4b50591526b527"


def test_weights_keep_their_fingerprint_through_a_file(tmp_path: Path) -> None:
    checkpoint.save({"model": weights()}, tmp_path / "a.pt")
    loaded = checkpoint.load(tmp_path / "a.pt")["model"]
    assert checkpoint.fingerprint(loaded) == checkpoint.fingerprint(weights())


@pytest.mark.parametrize(
    "change",
    [
        {"a.bias": torch.tensor([0.0, 1e-30])},
        {"a.bias": torch.zeros(2, dtype=torch.float64)},
        {"a.weight": weights()["a.weight"].reshape(2, 3)},
        {"steps": torch.tensor(8)},
        {"mask": torch.tensor([False, True])},
        {"none": torch.zeros(5, 0)},
        {"more": torch.zeros(1)},
    ],
)
def test_another_value_type_shape_or_name_has_another_fingerprint(
    change: dict[str, Tensor],
) -> None:
    assert checkpoint.fingerprint(weights() | change) != checkpoint.fingerprint(weights())
    renamed = {f"x.{name}": value for name, value in weights().items()}
    assert checkpoint.fingerprint(renamed) != checkpoint.fingerprint(weights())
