"""Pretraining batches: audio and labels stay side by side, whatever is cropped."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mt4ssl_bench.data import audio
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cuts import write_cuts
from mt4ssl_bench.data.frame_grid import STRIDE, frame_count, frame_counts
from mt4ssl_bench.data.label_store import LabelStore, write_labels
from mt4ssl_bench.data.labels import LabelInfo
from mt4ssl_bench.errors import CheckpointError, CorpusError
from mt4ssl_bench.upstream.batches import PretrainData
from mt4ssl_bench.upstream.config import DataConfig
from mt4ssl_bench.upstream.frontend import normalize

CONFIG = DataConfig(batch_seconds=6, max_seconds=1.0, min_seconds=0.5, workers=0)


@pytest.fixture
def labels(corpus: Corpus, tmp_path: Path) -> LabelStore:
    """Labels that are their own frame number, so that a crop shows where it began."""
    counts = {cut.id: frame_count(round(cut.duration * audio.RATE)) for cut in corpus.cuts("train")}
    info = LabelInfo(digest=corpus.info.digest, clusters=1000)
    return write_labels(
        tmp_path / "labels", info, [(name, np.arange(count)) for name, count in counts.items()]
    )


def test_labels_and_audio_are_cropped_by_the_same_frames(
    corpus: Corpus, labels: LabelStore
) -> None:
    whole = {cut.id: normalize(torch.from_numpy(audio.read(cut))) for cut in corpus.cuts("train")}
    data = PretrainData([corpus], "train", CONFIG, labels, normalized=True)
    starts = []
    for batch in data(0):
        assert batch.labels is not None
        assert batch.labels.shape[1] == int(frame_counts(batch.lengths).max())
        for name, wave, length, row in zip(
            batch.ids, batch.waveforms, batch.lengths, batch.labels, strict=True
        ):
            first = int(row[0])
            starts.append(first)
            expected = whole[name][first * STRIDE : first * STRIDE + int(length)]
            torch.testing.assert_close(wave[:length], expected)
            count = frame_count(int(length))
            assert row[:count].tolist() == list(range(first, first + count))
    assert len(starts) == 18
    assert max(starts) > 0  # long utterances begin somewhere inside


def test_crops_change_with_the_epoch_and_repeat_with_the_seed(
    corpus: Corpus, labels: LabelStore
) -> None:
    def firsts(epoch: int, seed: int) -> dict[str, int]:
        data = PretrainData([corpus], "train", CONFIG, labels, normalized=True, seed=seed)
        # type: ignore[arg-type]
        return {n: int(row[0]) for b in data(epoch) for n, row in zip(b.ids, b.labels, strict=True)}

    assert firsts(0, 1) == firsts(0, 1)
    assert firsts(0, 1) != firsts(1, 1)
    assert firsts(0, 1) != firsts(0, 2)


def test_without_shuffling_the_order_and_crops_are_fixed(corpus: Corpus) -> None:
    data = PretrainData([corpus], "valid", CONFIG, None, normalized=False, shuffle=False)
    assert [b.ids for b in data(0)] == [b.ids for b in data(1)]
    assert all(b.labels is None for b in data(0))


def test_memory_and_loader_processes_give_the_same_batches(
    corpus: Corpus, labels: LabelStore
) -> None:
    kinds = [
        CONFIG,
        DataConfig(**{**CONFIG.__dict__, "cache_hours": 1.0}),
        DataConfig(**{**CONFIG.__dict__, "workers": 2}),
    ]
    found = [
        list(PretrainData([corpus], "train", kind, labels, normalized=True)(3)) for kind in kinds
    ]
    for batches in found[1:]:
        for a, b in zip(found[0], batches, strict=True):
            assert a.ids == b.ids
            assert a.waveforms.equal(b.waveforms)


def test_a_length_limit_that_leaves_nothing_is_an_error(corpus: Corpus) -> None:
    config = DataConfig(min_seconds=30, max_seconds=60)
    with pytest.raises(CorpusError, match="min_seconds=30"):
        PretrainData([corpus], "train", config, None, normalized=True)


# ---- audio that cannot be read ----


def spoiled(corpus: Corpus, tmp_path: Path, *names: str) -> Corpus:
    """Return a copy of the corpus in which some files of the training split are cut short or
    gone.
    """
    shutil.copytree(corpus.root, tmp_path / "copy")
    source = Path(corpus.cuts("train")[0].recording.sources[0].source).parent
    shutil.copytree(source, tmp_path / "audio")
    for name in names:
        file = tmp_path / "audio" / f"{name}.flac"
        file.write_bytes(file.read_bytes()[:100])
    cuts = []
    for cut in corpus.cuts("train"):
        cut.recording.sources[0].source = str(tmp_path / "audio" / f"{cut.id}.flac")
        cuts.append(cut)
    write_cuts(tmp_path / "copy" / "train.jsonl.gz", cuts)
    return Corpus.open(tmp_path / "copy")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_file_is_skipped_counted_and_named(
    corpus: Corpus,
    labels: LabelStore,
    tmp_path: Path,
    workers: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = replace(CONFIG, workers=workers)
    whole = [b.ids for b in PretrainData([corpus], "train", config, labels, normalized=True)(0)]
    data = PretrainData(
        [spoiled(corpus, tmp_path, "s1-3")], "train", config, labels, normalized=True
    )
    with caplog.at_level("WARNING", logger="mt4ssl_bench"):
        batches = list(data(0))
    assert [b.ids for b in batches] == [[name for name in ids if name != "s1-3"] for ids in whole]
    # type: ignore[arg-type]
    assert all(len(b.waveforms) == len(b.lengths) == len(b.ids) == len(b.labels) for b in batches)
    assert list(data.unreadable) == ["s1-3"]
    assert "left out, 1 so far: utterance 's1-3': " in caplog.text
    list(data(1))
    assert caplog.text.count("left out") == 1  # once, not once per epoch


def test_what_follows_a_skip_is_the_same_after_resuming(corpus: Corpus, tmp_path: Path) -> None:
    data = PretrainData([spoiled(corpus, tmp_path, "s0-5")], "train", CONFIG, None, normalized=True)
    whole = list(data(2))
    for skip in range(len(whole)):
        resumed = list(data(2, skip))
        assert [b.ids for b in resumed] == [b.ids for b in whole[skip:]]
        assert all(
            a.waveforms.equal(b.waveforms) for a, b in zip(resumed, whole[skip:], strict=True)
        )


def test_a_run_stops_when_too_much_cannot_be_read(corpus: Corpus, tmp_path: Path) -> None:
    broken = spoiled(corpus, tmp_path, "s0-5", "s2-7")
    with pytest.raises(
        CorpusError,
        match=r"2 of 18 utterances cannot be read, more than data\.max_unreadable=0\.001",
    ):
        list(PretrainData([broken], "train", CONFIG, None, normalized=True)(0))
    allowed = PretrainData(
        [broken], "train", replace(CONFIG, max_unreadable=0.2), None, normalized=True
    )
    assert sum(len(b.ids) for b in allowed(0)) == 16


def test_a_file_that_vanished_after_preparing_is_skipped_too(
    corpus: Corpus, tmp_path: Path
) -> None:
    broken = spoiled(corpus, tmp_path)
    (tmp_path / "audio" / "s0-2.flac").unlink()
    data = PretrainData([broken], "train", CONFIG, None, normalized=True)
    assert sum(len(b.ids) for b in data(0)) == 17
    assert data.unreadable["s0-2"].endswith("s0-2.flac: no such file")


def test_a_batch_of_which_nothing_can_be_read_is_made_of_others(
    corpus: Corpus, tmp_path: Path
) -> None:
    alone = replace(CONFIG, batch_seconds=1.0)  # one utterance per batch
    whole = list(PretrainData([corpus], "train", alone, None, normalized=True)(0))
    data = PretrainData([spoiled(corpus, tmp_path, "s1-4")], "train", alone, None, normalized=True)
    batches = list(data(0))
    changed = [(a.ids, b.ids) for a, b in zip(whole, batches, strict=True) if a.ids != b.ids]
    assert [before for before, _ in changed] == [["s1-4"]]
    assert len(changed[0][1]) == 1
    assert [b.ids for b in data(0)] == [b.ids for b in batches]


def test_nothing_readable_at_all_is_an_error(corpus: Corpus, tmp_path: Path) -> None:
    broken = spoiled(corpus, tmp_path)
    shutil.rmtree(tmp_path / "audio")
    data = PretrainData(
        [broken], "train", replace(CONFIG, max_unreadable=1.0), None, normalized=True
    )
    with pytest.raises(
        CorpusError, match=r"none of 18 utterances in a row can be read; the first: .*no such file"
    ):
        list(data(0))


@pytest.mark.parametrize("workers", [0, 1])
def test_labels_that_do_not_fit_stop_the_run_and_name_the_utterance(
    corpus: Corpus, tmp_path: Path, workers: int
) -> None:
    config = replace(CONFIG, workers=workers)
    counts = {cut.id: frame_count(round(cut.duration * audio.RATE)) for cut in corpus.cuts("train")}
    info = LabelInfo(digest=corpus.info.digest, clusters=1000)
    half = [(name, np.zeros(count // 2)) for name, count in counts.items()]  # made at 25 Hz
    few = [(name, np.zeros(count)) for name, count in counts.items() if name != "s0-4"]
    for pairs, match in (
        (half, r"utterance 's\d-\d' has \d+ labels for \d+ frames at 50 Hz"),
        (few, "'s0-4'"),
    ):
        store = write_labels(tmp_path / "l", info, pairs)
        with pytest.raises(CheckpointError, match=match) as caught:
            list(PretrainData([corpus], "train", config, store, normalized=True)(0))
        assert "\n" not in str(caught.value)
