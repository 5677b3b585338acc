"""Offline labels: MFCC frames, nearest centres, and a store that refuses what it was not made
for.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from builders import TOY, torchrun
from mt4ssl_bench.clustering import work_by_processes
from mt4ssl_bench.clustering.config import OfflineConfig
from mt4ssl_bench.clustering.feature_source import FeatureSource
from mt4ssl_bench.clustering.make_labels import make_labels
from mt4ssl_bench.corpora.prepare_source import prepare_path
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.corpus import Corpus, joint_digest
from mt4ssl_bench.data.frame_grid import frame_count
from mt4ssl_bench.data.label_store import LabelStore, write_labels
from mt4ssl_bench.data.labels import LabelInfo
from mt4ssl_bench.errors import CheckpointError, ConfigError, CorpusError
from mt4ssl_bench.features.mfcc import mfcc

CONFIG = OfflineConfig(clusters=6)


def make(corpus: Corpus, out: Path, config: OfflineConfig = CONFIG) -> LabelStore:
    return make_labels([corpus], ("train", "valid"), config, out=out, seed=0)


@pytest.mark.parametrize("samples", [400, 719, 720, 16_000, 31_999])
def test_mfcc_has_one_frame_per_frame_of_the_front_end(samples: int) -> None:
    wave = np.random.default_rng(0).standard_normal(samples).astype(np.float32)
    assert mfcc(wave).shape == (frame_count(samples), 39)


def test_every_utterance_is_labelled_with_its_nearest_centre(
    corpus: Corpus, tmp_path: Path
) -> None:
    store = make(corpus, tmp_path / "labels")
    cuts = [*corpus.cuts("train"), *corpus.cuts("valid")]
    assert store.info.frames == sum(frame_count(round(cut.duration * audio.RATE)) for cut in cuts)
    found = {
        name: frames.numpy() for batch in FeatureSource(CONFIG)(cuts) for name, frames in batch
    }
    frames = [found[cut.id] for cut in cuts]
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


def test_audio_that_cannot_be_read_has_no_labels_and_stops_nothing(
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(work_by_processes, "ITEMS", 1)  # a part of nothing but unreadable audio
    shutil.copytree(manifest.parent, tmp_path / "in")
    corpus = prepare_path("table", tmp_path / "in" / manifest.name, tmp_path / "corpus")
    gone, kept, *_ = corpus.cuts("train")
    Path(gone.recording.sources[0].source).unlink()
    store = make(corpus, tmp_path / "labels")
    assert len(store.get(kept.id, frame_count(round(kept.duration * audio.RATE))))
    with pytest.raises(CheckpointError, match=f"none for utterance '{gone.id}'"):
        store.get(gone.id, 1)
    assert caplog.text.count(f"left out, 1 so far: utterance '{gone.id}'") == 1


def test_labels_made_in_another_way_are_not_taken_for_those_that_are_asked_for(
    corpus: Corpus, tmp_path: Path
) -> None:
    make(corpus, tmp_path / "labels")
    other = OfflineConfig(clusters=6, features=f"random:{TOY}", layer=1)
    with pytest.raises(
        ConfigError,
        match="holds labels created with different settings .6 clusters of mfcc.*choose another --out",
    ):
        make(corpus, tmp_path / "labels", other)
    with pytest.raises(ConfigError, match="holds labels created with different settings"):
        make_labels([corpus], ("train",), CONFIG, out=tmp_path / "labels", seed=0)


def test_a_label_beyond_the_clusters_is_named(tmp_path: Path) -> None:
    values = {"a": np.array([3, 19]), "b": np.array([999])}
    store = write_labels(tmp_path / "labels", LabelInfo(digest="d", clusters=20), values.items())
    assert store.get("a", 2).tolist() == [3, 19]
    with pytest.raises(CheckpointError, match="utterance 'b' has label 999 of 20 clusters"):
        store.get("b", 1)


def test_labels_from_a_layer_of_an_upstream(corpus: Corpus, tmp_path: Path) -> None:
    store = make(
        corpus, tmp_path / "labels", OfflineConfig(clusters=6, features=f"random:{TOY}", layer=1)
    )
    assert store.info.features.endswith(":1")
    assert store.info.clusters == 6


def test_labels_of_another_corpus_or_codebook_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    store = make(corpus, tmp_path / "labels")
    with pytest.raises(CheckpointError, match="made from another corpus.*mt4ssl-bench kmeans"):
        store.check("0123", 6)
    with pytest.raises(CheckpointError, match="clusters=100.*has 6 clusters"):
        store.check(corpus.info.digest, 100)


def test_missing_and_short_labels_name_the_utterance(tmp_path: Path) -> None:
    store = write_labels(
        tmp_path / "l", LabelInfo(digest="d", clusters=2), [("a", np.zeros(10)), ("b", np.ones(4))]
    )
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
    cuts = corpus.cuts("train")[:1]
    ((_, frames),) = next(FeatureSource(OfflineConfig(normalize="utterance"))(cuts))
    torch.testing.assert_close(frames.mean(0), torch.zeros(39), atol=1e-4, rtol=0)


def arrays(folder: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    ids = (folder / "ids.txt").read_text(encoding="utf-8").splitlines()
    return ids, np.load(folder / "labels.npy"), np.load(folder / "centres.npy")


def test_interrupted_labelling_goes_on_where_it_was(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_by_processes, "ITEMS", 4)
    whole = arrays(make(corpus, tmp_path / "whole").folder)
    done: list[str] = []
    write = work_by_processes.Parts.write

    def until_the_sixth(
        self: work_by_processes.Parts, name: str, values: work_by_processes.Arrays
    ) -> None:
        if len(done) == 6:  # four parts of the sample, the centres, one part of labels
            raise KeyboardInterrupt
        done.append(name)
        write(self, name, values)

    monkeypatch.setattr(work_by_processes.Parts, "write", until_the_sixth)
    with pytest.raises(KeyboardInterrupt):
        make(corpus, tmp_path / "again")
    monkeypatch.setattr(
        work_by_processes.Parts,
        "write",
        lambda self, name, values: (done.append(name), write(self, name, values)),
    )
    again = arrays(make(corpus, tmp_path / "again").folder)
    assert len(done) == len(set(done)), "a part was made twice"
    assert "centres.npz" in done[:6]
    assert again[0] == whole[0]
    assert all(np.array_equal(a, b) for a, b in zip(again[1:], whole[1:], strict=True))
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")) == [
        "again",
        "whole",
    ]


@pytest.mark.long
def test_two_processes_share_the_labelling(corpus: Corpus, tmp_path: Path) -> None:
    script = tmp_path / "small_parts.py"
    script.write_text(
        "from mt4ssl_bench.cli.app import main\n"
        "from mt4ssl_bench.clustering import work_by_processes\n"
        "work_by_processes.ITEMS = 4\n"
        "main()\n",
        encoding="utf-8",
    )
    keys = ["kmeans", TOY, f"data.corpus={corpus.root}", "targets.offline.clusters=6"]
    for out, argv in ((tmp_path / "one", [sys.executable]), (tmp_path / "two", torchrun(2))):
        done = subprocess.run(
            [*argv, str(script), *keys, "--out", str(out)],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.stdout.count("perplexity:") == 1
        assert "phones: no purity or PNMI without time-aligned phones" in done.stdout
    one, two = arrays(tmp_path / "one"), arrays(tmp_path / "two")
    assert one[0] == two[0]
    assert all(np.array_equal(a, b) for a, b in zip(one[1:], two[1:], strict=True))


def test_the_layer_must_exist(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"layer=7: .* has 3 hidden states"):
        make(
            corpus,
            tmp_path / "labels",
            OfflineConfig(clusters=6, features=f"random:{TOY}", layer=7),
        )
