"""Features on disk: how far each precision may move a value, and a journal that counts only what is
all there.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mt4ssl_bench.errors import CheckpointError
from mt4ssl_bench.features.file import (
    FeatureSet,
    JointFeatures,
    StoredFeatures,
    Writer,
)
from mt4ssl_bench.features.index import Header, read_index
from mt4ssl_bench.features.precision import Precision, decode, encode, vector_bytes

RNG = np.random.default_rng(0)
SCALES = np.array([0.01, 1.0, 300.0])[:, None, None]
VALUES = (RNG.standard_normal((3, 50, 96)) * SCALES).astype(np.float32)  # (L, T, D)
VALUES[1, 7] = 0  # a silent frame


def header(precision: Precision = "fp32") -> Header:
    return Header(
        upstream="u", fingerprint="f", corpus="c", digest="d", split="s", kind="frames", utterances=2, hours=0.1,
        precision=precision, layers=3, dim=96,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("precision", "size", "bound"),
    [
        ("fp32", 384, np.zeros_like(VALUES)),
        ("fp16", 192, np.abs(VALUES) * 2.0**-11 + 2.0**-25),
        ("bf16", 192, np.abs(VALUES) * 2.0**-8),
        # half a step of 127 from the largest value of that frame of that layer, whatever the other
        # layers hold
        (
            "int8",
            100,
            np.broadcast_to(np.abs(VALUES).max(-1, keepdims=True) / 254 * 1.001, VALUES.shape),
        ),
    ],
)
def test_a_precision_moves_no_value_further_than_its_rounding(
    precision: Precision, size: int, bound: np.ndarray
) -> None:
    stored = encode(VALUES, precision)
    assert stored.shape == (50, 3, size)
    assert vector_bytes(precision, 96) == size
    found = decode(stored, precision)
    assert found.dtype == np.float32
    assert (np.abs(found - VALUES) <= bound).all()
    assert not found[1, 7].any()


def test_bf16_is_what_torch_makes_of_it() -> None:
    import torch

    expected = torch.from_numpy(VALUES).bfloat16().float().numpy()
    assert np.array_equal(decode(encode(VALUES, "bf16"), "bf16"), expected)


def test_fp16_is_rounded_to_the_nearest_as_numpy_does() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((3, 400, 5)).astype(np.float32)
    values *= 10.0 ** rng.integers(-9, 4, values.shape)  # subnormal ones, too
    values[0, 0] = [1 + 2.0**-11, 1 + 3 * 2.0**-11, 2.0**-25, 65_519.9, -0.0]  # ties, the largest
    expected = values.astype(np.float16).astype(np.float32)
    assert np.array_equal(decode(encode(values, "fp16"), "fp16"), expected)
    for broken in (65_520.0, np.nan, -np.inf):
        with pytest.raises(OverflowError):
            encode(np.full((1, 1, 1), broken, np.float32), "fp16")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_what_is_written_is_what_is_read(tmp_path: Path, precision: Precision) -> None:
    file = tmp_path / "x.bin"
    Writer(file, header(precision)).write(iter([[("a", VALUES[:, :20]), ("b", VALUES[:, 20:])]]))
    features = StoredFeatures(file, lambda _: VALUES)
    assert features.header == header(precision)
    assert np.array_equal(features.get("b"), decode(encode(VALUES[:, 20:], precision), precision))
    padded, lengths = features.batch(["b", "a"])
    assert lengths.tolist() == [30, 20]
    assert not padded[:, 1, 20:].any()
    assert np.array_equal(padded[:, 1, :20].numpy(), features.get("a"))


def test_utterances_without_a_frame_have_no_features(tmp_path: Path) -> None:
    none = VALUES[:, :0]
    Writer(tmp_path / "x.bin", header()).write(iter([[("a", none), ("b", none)]]))
    features = StoredFeatures(tmp_path / "x.bin", lambda _: none)
    assert features.get("b").shape == (3, 0, 96)
    assert features.batch(["a", "b"])[1].tolist() == [0, 0]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_a_gpu_makes_the_same_values_of_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision
) -> None:
    monkeypatch.setattr("mt4ssl_bench.features.file.moved", lambda x, _: x)
    file = tmp_path / "x.bin"
    Writer(file, header(precision)).write(iter([[("a", VALUES[:, :20]), ("b", VALUES[:, 20:])]]))
    damaged = bytearray(file.read_bytes())
    damaged[25 * header(precision).row_bytes] ^= 1  # within b
    file.write_bytes(damaged)
    mended: list[str] = []

    def remake(name: str) -> np.ndarray:
        mended.append(name)
        time.sleep(0.05)  # the other threads find the damage meanwhile
        return VALUES[:, 20:]

    features = StoredFeatures(file, remake)
    names = [["b", "a"], ["a"], ["b"], ["b", "b"]]
    seen = list(features.stream(names, "cuda"))
    assert mended == ["b"], "two threads read, one of them mends"
    for (x, lengths), own in zip(seen, names, strict=True):
        expected, counts = features.batch(own)
        assert lengths.equal(counts)
        assert x.is_contiguous()
        assert x.numpy().tobytes() == expected.numpy().tobytes()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
@pytest.mark.parametrize("shape", [(1, 1, 39), (1, 0, 39), (2, 3, 7)])
def test_vectors_of_any_size_are_decoded(precision: Precision, shape: tuple[int, int, int]) -> None:
    values = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    found = decode(encode(values, precision), precision)
    assert found.shape == shape
    assert np.allclose(found, values, atol=0.05)


def test_a_write_that_fails_ends_the_pass_and_keeps_what_was_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, put = tmp_path / "x.bin", Writer._put

    def full(self: Writer, part: Sequence[tuple[str, Any]], place: int) -> Any:
        if any(name == "b" for name, _ in part):
            raise OSError(28, "No space left on device")
        return put(self, part, place)

    monkeypatch.setattr(Writer, "_put", full)
    parts = [[(name, VALUES[:, 10 * n : 10 * n + 10])] for n, name in enumerate("abc")]
    with pytest.raises(OSError, match="No space left"):
        Writer(file, header()).write(iter(parts))
    assert Writer(file, header()).done == {"a"}


def test_a_resumed_pass_that_is_killed_at_once_keeps_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "x.bin"
    interrupted(file)
    writer = Writer(file, header())

    def killed() -> Iterator[Any]:
        assert Writer(file, header()).done == {"a", "b"}, "as another process finds it"
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        writer.write(killed())


def interrupted(file: Path, precision: Precision = "fp32") -> None:
    """Leave the first two of three utterances."""

    def batches() -> Iterator[Any]:
        yield [("a", VALUES[:, :20])]
        yield [("b", VALUES[:, 20:30])]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Writer(file, header(precision)).write(batches())


def test_a_journal_counts_up_to_the_first_utterance_that_is_not_sound(tmp_path: Path) -> None:
    file = tmp_path / "x.bin"
    interrupted(file)
    assert Writer(file, header()).done == {"a", "b"}
    stored = bytearray(file.read_bytes())
    stored[25 * header().row_bytes] ^= 1  # within b
    file.write_bytes(stored)
    writer = Writer(file, header())
    assert writer.done == {"a"}
    writer.write(iter([[("b", VALUES[:, 20:30]), ("c", VALUES[:, 30:])]]))
    assert [line.name for line in read_index(file)[1]] == ["a", "b", "c"]
    features = StoredFeatures(file, lambda _: VALUES)
    assert np.array_equal(np.concatenate(features.rows(["a", "b", "c"]), axis=1), VALUES)


def test_a_journal_of_another_precision_counts_for_nothing(tmp_path: Path) -> None:
    interrupted(tmp_path / "x.bin")
    assert Writer(tmp_path / "x.bin", header("fp16")).done == set()


def test_audio_that_changed_since_is_said_when_damage_is_mended(tmp_path: Path) -> None:
    file = tmp_path / "x.bin"
    Writer(file, header()).write(iter([[("a", VALUES)]]))
    file.write_bytes(bytes(file.stat().st_size))
    features = StoredFeatures(file, lambda _: VALUES[:, :7])
    with pytest.raises(
        CheckpointError, match="utterance 'a' has 7 rows now, not 50: its audio has changed"
    ):
        features.get("a")


class Filled(FeatureSet):
    """Utterances of one value, and how often they were asked for together."""

    layers, dim = 2, 3

    def __init__(self, **values: float) -> None:
        self.values, self.asked = values, 0

    def rows(
        self,
        names: Sequence[str],
        crops: Sequence[int] | None = None,  # noqa: ARG002
    ) -> list[np.ndarray]:
        self.asked += 1
        return [np.full((2, self.count(name), 3), self.values[name], np.float32) for name in names]

    def count(self, name: str) -> int:
        return int(self.values[name])


def test_sets_of_several_splits_are_read_as_one_and_each_once() -> None:
    queries, documents = Filled(q=1), Filled(c=2, d=3)
    joint = JointFeatures({"q": queries, "d": documents, "c": documents})
    assert (joint.layers, joint.dim) == (2, 3)
    assert [row[0, 0, 0] for row in joint.rows(["d", "q", "c"])] == [3, 1, 2]
    assert (queries.asked, documents.asked) == (1, 1)
    assert joint.get("c").shape == (2, joint.count("c"), 3)
    padded, lengths = joint.batch(["q", "d"])
    assert padded.shape == (2, 2, 3, 3)
    assert lengths.tolist() == [1, 3]
