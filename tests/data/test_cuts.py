"""Cuts on disk: any one is read alone, lhotse reads the same file, and damage is named."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lhotse import AudioSource, CutSet, MultiCut, Recording

from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut_files import LINES
from mt4ssl_bench.data.cuts import Cuts, durations_of, write_cuts
from mt4ssl_bench.errors import CorpusError

COUNT = 2 * LINES + 5


def cut(i: int) -> dict[str, Any]:
    source = {"type": "file", "channels": [0], "source": f"audio/ü{i}.flac"}
    samples = 16_000 + i
    recording = {
        "id": f"u{i}",
        "sources": [source],
        "sampling_rate": 16_000,
        "num_samples": samples,
    }
    recording |= {"duration": samples / 16_000, "channel_ids": [0]}
    place = {
        "id": f"u{i}",
        "start": 0.0,
        "duration": samples / 16_000,
        "channel": 0,
        "supervisions": [],
    }
    return {**place, "recording": recording, "type": "MonoCut"}


@pytest.fixture
def cuts(tmp_path: Path) -> Cuts:
    file = tmp_path / "train.jsonl.gz"
    write_cuts(file, (cut(i) for i in range(COUNT)))
    return Cuts(file, tmp_path)


def test_any_cut_is_read_alone(cuts: Cuts) -> None:
    assert len(cuts) == COUNT
    for i in (0, LINES - 1, LINES, COUNT - 1):
        assert cuts[i].id == f"u{i}"
    assert cuts[-1].id == f"u{COUNT - 1}"
    assert [c.id for c in cuts[LINES - 1 : LINES + 1]] == [f"u{LINES - 1}", f"u{LINES}"]
    assert cuts[3].recording.sources[0].source == str(cuts.root / "audio/ü3.flac")
    with pytest.raises(IndexError):
        cuts[COUNT]


def test_iterating_gives_every_cut_in_order(cuts: Cuts) -> None:
    assert [c.id for c in cuts] == [f"u{i}" for i in range(COUNT)]
    assert cuts.durations.tolist() == [(16_000 + i) / 16_000 for i in range(COUNT)]
    assert durations_of(list(cuts)).tolist() == durations_of(cuts).tolist()


@pytest.mark.parametrize("name", ['a"b', "a\\", "ü/1", ""])
def test_ids_are_read_without_the_cuts(name: str, tmp_path: Path) -> None:
    last = {key: value for key, value in cut(1).items() if key != "id"} | {"id": name}
    write_cuts(tmp_path / "train.jsonl.gz", [cut(0), cut(2) | {"id": name}, last])
    assert list(Cuts(tmp_path / "train.jsonl.gz", tmp_path).ids()) == ["u0", name, name]


def test_lhotse_reads_the_same_file(cuts: Cuts) -> None:
    read = CutSet.from_jsonl_lazy(cuts.file)
    assert [c.to_dict() for c in read] == [cut(i) for i in range(COUNT)]


def test_a_manifest_that_lhotse_wrote_gets_its_index(cuts: Cuts, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    file = tmp_path / "theirs" / "train.jsonl.gz"
    CutSet.from_cuts(CutSet.from_jsonl_lazy(cuts.file)).to_file(file)
    theirs = Cuts(file, tmp_path)
    assert [c.id for c in theirs] == [c.id for c in cuts]
    assert theirs[LINES].to_dict() == cuts[LINES].to_dict()
    assert sorted(p.name for p in file.parent.iterdir()) == ["train.index.npz", "train.jsonl.gz"]


def test_several_channels_stay(tmp_path: Path) -> None:
    source = AudioSource(type="file", channels=[0, 1], source="a.wav")
    recording = Recording(
        id="u", sources=[source], sampling_rate=8_000, num_samples=8_000, duration=1.0
    )
    write_cuts(tmp_path / "train.jsonl.gz", [recording.to_cut()])
    assert isinstance(Cuts(tmp_path / "train.jsonl.gz", tmp_path)[0], MultiCut)


def test_no_cut_at_all_is_no_cut(tmp_path: Path) -> None:
    write_cuts(tmp_path / "train.jsonl.gz", [])
    cuts = Cuts(tmp_path / "train.jsonl.gz", tmp_path)
    assert (len(cuts), list(cuts)) == (0, [])


@pytest.mark.parametrize("damage", ["truncated", "bytes", "no json"])
def test_a_damaged_manifest_is_named(cuts: Cuts, damage: str) -> None:
    whole = cuts.file.read_bytes()
    if damage == "truncated":
        cuts.file.write_bytes(whole[:-20])
    elif damage == "bytes":
        cuts.file.write_bytes(whole[:40] + b"\0\0\0\0" + whole[44:])
    else:
        cuts.file.write_bytes(gzip.compress(b"{not json\n"))
    with pytest.raises(CorpusError, match=r"train\.jsonl\.gz: damaged .*prepare it again"):
        list(Cuts(cuts.file, cuts.root))
    assert not [p for p in cuts.file.parent.iterdir() if p.name.startswith(".")]


def test_an_index_that_does_not_fit_is_made_again(
    cuts: Cuts, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = cuts.file.with_name("train.index.npz")
    for content in (b"", b"half", index.read_bytes()[:50]):
        index.write_bytes(content)
        assert Cuts(cuts.file, cuts.root)[7].id == "u7"
    cuts.file.write_bytes(
        gzip.compress("".join(json.dumps(cut(i)) + "\n" for i in (5, 3)).encode())
    )
    with monkeypatch.context() as patched:
        patched.setattr(os, "access", lambda *_: False)  # root may write anywhere
        with pytest.raises(CorpusError, match="no index that fits, and none can be written"):
            Cuts(cuts.file, cuts.root)
    edited = Cuts(cuts.file, cuts.root)
    assert [edited[i].id for i in range(2)] == ["u5", "u3"]


def test_a_split_that_lost_cuts_is_not_the_one_that_was_prepared(
    corpus: Corpus, tmp_path: Path
) -> None:
    (tmp_path / "corpus.json").write_bytes((corpus.root / "corpus.json").read_bytes())
    write_cuts(tmp_path / "train.jsonl.gz", corpus.cuts("train")[:4])
    with pytest.raises(CorpusError, match=r"train\.jsonl\.gz: damaged \(4 cuts, not 18\)"):
        Corpus.open(tmp_path).cuts("train")


def test_the_order_of_durations_is_the_cuts_own(corpus: Corpus) -> None:
    cuts = corpus.cuts("train")
    assert np.array_equal(cuts.durations, [c.duration for c in cuts])
