"""Pretraining batches: audio and labels stay side by side, whatever is cropped."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mt4ssl_bench import audio
from mt4ssl_bench.corpus import Corpus
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.upstream.config import DataConfig
from mt4ssl_bench.upstream.data import PretrainData
from mt4ssl_bench.upstream.frontend import STRIDE, frame_count, frame_counts, normalize
from mt4ssl_bench.upstream.labels import LabelInfo, LabelStore, write_labels

CONFIG = DataConfig(batch_seconds=6, max_seconds=1.0, min_seconds=0.5, workers=0)


@pytest.fixture
def labels(corpus: Corpus, tmp_path: Path) -> LabelStore:
    """Labels that are their own frame number, so that a crop shows where it began."""
    counts = {cut.id: frame_count(round(cut.duration * audio.RATE)) for cut in corpus.cuts("train")}
    info = LabelInfo(digest=corpus.info.digest, clusters=1000)
    return write_labels(tmp_path / "labels", info, [(name, np.arange(count)) for name, count in counts.items()])


def test_labels_and_audio_are_cropped_by_the_same_frames(corpus: Corpus, labels: LabelStore) -> None:
    whole = {cut.id: normalize(torch.from_numpy(audio.read(cut))) for cut in corpus.cuts("train")}
    data = PretrainData([corpus], "train", CONFIG, labels, normalized=True)
    starts = []
    for batch in data(0):
        assert batch.labels is not None
        assert batch.labels.shape[1] == int(frame_counts(batch.lengths).max())
        for name, wave, length, row in zip(batch.ids, batch.waveforms, batch.lengths, batch.labels, strict=True):
            first = int(row[0])
            starts.append(first)
            expected = whole[name][first * STRIDE : first * STRIDE + int(length)]
            torch.testing.assert_close(wave[:length], expected)
            count = frame_count(int(length))
            assert row[:count].tolist() == list(range(first, first + count))
    assert len(starts) == 18
    assert max(starts) > 0  # long utterances begin somewhere inside


def test_crops_change_with_the_epoch_and_repeat_with_the_seed(corpus: Corpus, labels: LabelStore) -> None:
    def firsts(epoch: int, seed: int) -> dict[str, int]:
        data = PretrainData([corpus], "train", CONFIG, labels, normalized=True, seed=seed)
        return {n: int(row[0]) for b in data(epoch) for n, row in zip(b.ids, b.labels, strict=True)}  # type: ignore[arg-type]

    assert firsts(0, 1) == firsts(0, 1)
    assert firsts(0, 1) != firsts(1, 1)
    assert firsts(0, 1) != firsts(0, 2)


def test_without_shuffling_the_order_and_crops_are_fixed(corpus: Corpus) -> None:
    data = PretrainData([corpus], "valid", CONFIG, None, normalized=False, shuffle=False)
    assert [b.ids for b in data(0)] == [b.ids for b in data(1)]
    assert all(b.labels is None for b in data(0))


def test_memory_and_loader_processes_give_the_same_batches(corpus: Corpus, labels: LabelStore) -> None:
    kinds = [
        CONFIG,
        DataConfig(**{**CONFIG.__dict__, "cache_hours": 1.0}),
        DataConfig(**{**CONFIG.__dict__, "workers": 2}),
    ]
    found = [list(PretrainData([corpus], "train", kind, labels, normalized=True)(3)) for kind in kinds]
    for batches in found[1:]:
        for a, b in zip(found[0], batches, strict=True):
            assert a.ids == b.ids
            assert a.waveforms.equal(b.waveforms)


def test_a_length_limit_that_leaves_nothing_is_an_error(corpus: Corpus) -> None:
    config = DataConfig(min_seconds=30, max_seconds=60)
    with pytest.raises(CorpusError, match="min_seconds=30"):
        PretrainData([corpus], "train", config, None, normalized=True)
