"""Offline labels: MFCC frames, nearest centres, and a store that refuses what it was not made for."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from mt4ssl_bench import audio
from mt4ssl_bench.corpus import Corpus
from mt4ssl_bench.errors import CheckpointError, CorpusError
from mt4ssl_bench.upstream.config import OfflineConfig
from mt4ssl_bench.upstream.frontend import frame_count
from mt4ssl_bench.upstream.kmeans import FeatureSource, joint_digest, make_labels, mfcc
from mt4ssl_bench.upstream.labels import LabelInfo, LabelStore, write_labels

CONFIG = OfflineConfig(clusters=6)


def make(corpus: Corpus, out: Path, config: OfflineConfig = CONFIG) -> LabelStore:
    return make_labels([corpus], ("train", "valid"), config, out=out, seed=0, device="cpu")


@pytest.mark.parametrize("samples", [400, 719, 720, 16_000, 31_999])
def test_mfcc_has_one_frame_per_frame_of_the_front_end(samples: int) -> None:
    wave = np.random.default_rng(0).standard_normal(samples).astype(np.float32)
    assert mfcc(wave).shape == (frame_count(samples), 39)


def test_every_utterance_is_labelled_with_its_nearest_centre(corpus: Corpus, tmp_path: Path) -> None:
    store = make(corpus, tmp_path / "labels")
    cuts = [*corpus.cuts("train"), *corpus.cuts("valid")]
    assert store.info.frames == sum(frame_count(round(cut.duration * audio.RATE)) for cut in cuts)
    source = FeatureSource(CONFIG)
    frames = [source(cut).numpy() for cut in cuts]
    labels = [store.get(cut.id, len(f)) for cut, f in zip(cuts, frames, strict=True)]
    x, y = np.concatenate(frames), np.concatenate(labels)
    centres = np.stack([x[y == c].mean(0) for c in np.unique(y)])
    # the labels are those of a k-means solution: one more iteration hardly moves a frame
    again = KMeans(len(centres), init=centres, n_init=1, max_iter=1).fit(x)
    assert (np.unique(y)[again.labels_] == y).mean() > 0.9


def test_labels_are_made_once_and_the_same_each_time(corpus: Corpus, tmp_path: Path) -> None:
    first, second = make(corpus, tmp_path / "a"), make(corpus, tmp_path / "b")
    cut = next(iter(corpus.cuts("train")))
    frames = frame_count(round(cut.duration * audio.RATE))
    assert (first.get(cut.id, frames) == second.get(cut.id, frames)).all()
    stamp = (tmp_path / "a" / "labels.npy").stat().st_mtime_ns
    make(corpus, tmp_path / "a")
    assert (tmp_path / "a" / "labels.npy").stat().st_mtime_ns == stamp


def test_labels_from_a_layer_of_an_upstream(corpus: Corpus, tmp_path: Path) -> None:
    toy = str(Path(__file__).parent / "data" / "toy.yaml")
    store = make(corpus, tmp_path / "labels", OfflineConfig(clusters=6, features=f"random:{toy}", layer=1))
    assert store.info.features.endswith(":1")
    assert store.info.clusters == 6


def test_labels_of_another_corpus_or_codebook_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    store = make(corpus, tmp_path / "labels")
    with pytest.raises(CheckpointError, match="made from another corpus.*mt4ssl-bench kmeans"):
        store.check("0123", 6)
    with pytest.raises(CheckpointError, match="clusters=100.*has 6 clusters"):
        store.check(corpus.info.digest, 100)


def test_missing_and_short_labels_name_the_utterance(tmp_path: Path) -> None:
    store = write_labels(tmp_path / "l", LabelInfo(digest="d", clusters=2), [("a", np.zeros(10)), ("b", np.ones(4))])
    assert store.get("b", 3).tolist() == [1, 1, 1]
    with pytest.raises(CheckpointError, match="'c'"):
        store.get("c", 1)
    with pytest.raises(CheckpointError, match="'b' has 4 labels for 9 frames"):
        store.get("b", 9)


def test_a_damaged_store_says_what_to_run(tmp_path: Path) -> None:
    write_labels(tmp_path / "l", LabelInfo(digest="d", clusters=2), [("a", np.zeros(10))])
    (tmp_path / "l" / "offsets.npy").write_bytes(b"half")
    with pytest.raises(CheckpointError, match="damaged.*mt4ssl-bench kmeans"):
        LabelStore(tmp_path / "l")


def test_more_clusters_than_frames_is_an_error(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"clusters=5000.*use fewer"):
        make(corpus, tmp_path / "labels", OfflineConfig(clusters=5000))
    assert not (tmp_path / "labels").exists()


def test_several_corpora_have_one_digest_in_any_order(corpus: Corpus) -> None:
    assert joint_digest([corpus]) == corpus.info.digest
    assert joint_digest([corpus, corpus]) != corpus.info.digest


def test_utterance_normalisation_removes_each_features_mean(corpus: Corpus) -> None:
    cut = next(iter(corpus.cuts("train")))
    frames = FeatureSource(OfflineConfig(normalize="utterance"))(cut)
    torch.testing.assert_close(frames.mean(0), torch.zeros(39), atol=1e-4, rtol=0)
