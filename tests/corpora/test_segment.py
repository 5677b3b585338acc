"""Segments: no piece too long, ends in pauses, nothing lost without being counted."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mt4ssl_bench.corpora.check import check_corpus
from mt4ssl_bench.corpora.prepare_source import prepare_path
from mt4ssl_bench.corpora.segment import quiet_ends, segment_corpus
from mt4ssl_bench.corpora.shard import shard_corpus
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import labels_of, speaker_of, text_of
from mt4ssl_bench.errors import CorpusError

PAUSES = (3.1, 7.4, 10.9, 15.2)  # seconds at which the long recording is silent for 0.3 s
SECONDS = 19.0


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """One recording of 19 s with four pauses, at 8 kHz; one of 4 s; one of 0.5 s."""
    folder = tmp_path_factory.mktemp("long")
    rng = np.random.default_rng(0)
    samples = 0.3 * rng.standard_normal(int(SECONDS * 8_000))
    for pause in PAUSES:
        samples[int(pause * 8_000) : int((pause + 0.3) * 8_000)] *= 0.001
    rows = ["id\tpath\tspeaker\ttext\tsplit\tlabel:slots\tlabel:emotion"]
    for name, count in (("long", len(samples)), ("whole", 4 * 8_000), ("tiny", 4_000)):
        soundfile.write(folder / f"{name}.flac", np.clip(samples[:count], -1, 1), 8_000)
        rows.append(f"{name}\t{name}.flac\tann\thello\ttrain\tgreeting\tcalm")
    (folder / "manifest.tsv").write_text("\n".join(rows) + "\n")
    return prepare_path("table", folder / "manifest.tsv", folder / "corpus")


def test_pieces_end_in_the_pauses_and_cover_everything(long: Corpus, tmp_path: Path) -> None:
    made = segment_corpus(long, tmp_path / "s", max_seconds=6, min_seconds=1)
    pieces = [cut for cut in made.cuts("train") if cut.id.startswith("long")]
    assert [cut.id for cut in pieces] == [f"long-{n:04d}" for n in range(len(pieces))]
    assert pieces[0].start == 0
    assert pieces[-1].end == pytest.approx(SECONDS)
    assert all(a.end == pytest.approx(b.start) for a, b in pairwise(pieces))
    assert all(1 <= cut.duration <= 6 for cut in pieces)
    for cut in pieces[:-1]:
        assert any(pause <= cut.end <= pause + 0.3 for pause in PAUSES)
    whole = audio.read(next(cut for cut in long.cuts("train") if cut.id == "long"))
    assert abs(sum(len(audio.read(cut)) for cut in pieces) - len(whole)) <= len(pieces)


def test_every_exclusion_is_counted_and_whole_recordings_keep_their_text(
    long: Corpus, tmp_path: Path
) -> None:
    made = segment_corpus(long, tmp_path / "s", max_seconds=6, min_seconds=1)
    notes = made.info.notes
    assert (notes["cut"], notes["too_short"]) == (1, 1)
    assert notes["pieces"] == made.info.splits["train"].utterances - 1
    assert notes["segmented"]["from"] == long.info.digest
    assert made.info.fields == ["emotion", "speaker"]
    assert {cut.id: dict(labels_of(cut)) for cut in made.cuts("train")} == {
        "whole": {"slots": "greeting", "emotion": "calm"},
        **{f"long-{n:04d}": {"emotion": "calm"} for n in range(notes["pieces"])},
    }
    assert {cut.id: (text_of(cut), speaker_of(cut)) for cut in made.cuts("train")} == {
        "whole": ("hello", "ann"),
        **{f"long-{n:04d}": ("", "ann") for n in range(notes["pieces"])},
    }


def test_pieces_are_no_duplicates_as_files_or_in_shards_or_cut_again(
    long: Corpus, tmp_path: Path
) -> None:
    made = segment_corpus(long, tmp_path / "s", max_seconds=6, min_seconds=1)
    again = segment_corpus(made, tmp_path / "again", max_seconds=4, min_seconds=1)
    for one in (
        made,
        again,
        shard_corpus(made, tmp_path / "shards"),
        shard_corpus(again, tmp_path / "shards_again"),
    ):
        assert "duplicate" not in check_corpus(one).counts()


def test_a_piece_with_the_id_of_another_utterance_is_refused(tmp_path: Path) -> None:
    """Both would have the labels of one of them."""
    for name, seconds in (("a", 9), ("a-0001", 3), ("b-0007", 3)):
        noise = 0.1 * np.random.default_rng(seconds).standard_normal(8_000 * seconds)
        soundfile.write(tmp_path / f"{name}.wav", noise, 8_000)
    rows = "a\ta.wav\ttrain\na-0001\ta-0001.wav\tvalid\nb-0007\tb-0007.wav\ttrain\n"
    (tmp_path / "m.tsv").write_text(f"id\tpath\tsplit\n{rows}")
    corpus = prepare_path("table", tmp_path / "m.tsv", tmp_path / "corpus")
    with pytest.raises(CorpusError, match="'a-0001' would be an utterance of 'a-0001' and of 'a'"):
        segment_corpus(corpus, tmp_path / "s", max_seconds=4, min_seconds=1)
    assert not (tmp_path / "s" / "corpus.json").exists()


def test_windows_are_equal_and_as_few_as_fit(long: Corpus, tmp_path: Path) -> None:
    made = segment_corpus(long, tmp_path / "s", max_seconds=5, min_seconds=1, by="windows")
    pieces = [cut for cut in made.cuts("train") if cut.id.startswith("long")]
    assert [cut.duration for cut in pieces] == [pytest.approx(SECONDS / 4)] * 4
    assert all(
        len(audio.read(cut)) == pytest.approx(SECONDS / 4 * audio.RATE, abs=2) for cut in pieces
    )


def test_a_recording_that_cannot_be_read_is_counted(long: Corpus, tmp_path: Path) -> None:
    path = Path(
        next(cut for cut in long.cuts("train") if cut.id == "long").recording.sources[0].source
    )
    content = path.read_bytes()
    try:
        path.write_bytes(b"gone")
        made = segment_corpus(long, tmp_path / "s", max_seconds=6, min_seconds=1)
    finally:
        path.write_bytes(content)
    assert made.info.notes["unreadable"] == 1
    assert [cut.id for cut in made.cuts("train")] == ["whole"]


def test_segmenting_again_changes_nothing_and_other_limits_are_refused(
    long: Corpus, tmp_path: Path
) -> None:
    first = segment_corpus(long, tmp_path / "s", max_seconds=6, min_seconds=1)
    stamp = (tmp_path / "s" / "train.jsonl.gz").stat().st_mtime_ns
    assert segment_corpus(long, tmp_path / "s", max_seconds=6, min_seconds=1).info == first.info
    assert (tmp_path / "s" / "train.jsonl.gz").stat().st_mtime_ns == stamp
    with pytest.raises(CorpusError, match="holds another corpus"):
        segment_corpus(long, tmp_path / "s", max_seconds=7, min_seconds=1)
    with pytest.raises(CorpusError, match="at most a quarter of 6"):
        segment_corpus(long, tmp_path / "t", max_seconds=6, min_seconds=4)


@pytest.mark.parametrize("seconds", [6.01, 7.0, 11.9, 12.0, 12.1, 100.0])
def test_no_piece_is_too_long_or_under_a_quarter(seconds: float) -> None:
    noise = np.random.default_rng(1).standard_normal(int(seconds * audio.RATE)).astype(np.float32)
    ends = quiet_ends(noise, seconds, 6.0)
    lengths = np.diff([0.0, *ends])
    assert ends[-1] == seconds
    assert lengths.max() <= 6.0
    assert lengths.min() >= 1.5 - 1e-9
