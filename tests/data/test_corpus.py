"""Opening a corpus: what is damaged or foreign is refused by name, and splits are found with near
misses.
"""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.corpus_info import CorpusInfo, SplitInfo
from mt4ssl_bench.data.cut import phones_of, speaker_of, text_of
from mt4ssl_bench.data.write_corpus import Tally
from mt4ssl_bench.errors import CorpusError


def store(root: Path, **changes: Any) -> dict[str, Any]:
    raw: dict[str, Any] = {
        "format": 1,
        "name": "small",
        "digest": "0123456789abcdef",
        "splits": {
            name: {"utterances": 2, "hours": 0.1, "speakers": 1} for name in ("train", "sid_train")
        },
        "fields": ["speaker"],
    }
    raw["splits"]["empty"] = {"utterances": 0, "hours": 0.0, "speakers": 0}
    raw |= changes
    root.mkdir(exist_ok=True)
    (root / "corpus.json").write_text(json.dumps(raw), encoding="utf-8")
    return raw


def test_the_tone_corpus_opens_with_what_it_holds(corpus: Corpus) -> None:
    info = Corpus.open(corpus.root).info
    assert info == corpus.info
    assert (info.name, info.synthetic, info.phones_from) == ("tones", True, "manifest")
    assert info.fields == ["phones", "speaker", "text"]
    assert {name: (split.utterances, split.speakers) for name, split in info.splits.items()} == {
        "train": (18, 3),
        "valid": (3, 3),
        "test": (3, 3),
    }


def test_cuts_carry_text_phones_and_speaker(corpus: Corpus) -> None:
    cut = next(cut for cut in corpus.cuts("test") if cut.id == "s0-0")
    assert speaker_of(cut) == "spk0"
    assert len(text_of(cut).split()) == 3
    assert set(text_of(cut).split()) <= {"LOW", "MID", "HIGH"}
    assert set(phones_of(cut).split()) <= {"L", "OW", "M", "IH", "D", "HH", "AY"}


def test_a_cut_without_supervision_has_neither_text_nor_phones_nor_speaker(corpus: Corpus) -> None:
    cut = next(iter(corpus.cuts("test"))).drop_supervisions()
    assert (text_of(cut), phones_of(cut), speaker_of(cut)) == ("", "", "")


def test_utterances_hours_and_speakers_are_counted(corpus: Corpus) -> None:
    cuts = list(corpus.cuts("test"))
    tally = Tally()
    assert [raw["id"] for raw in tally.of(cuts)] == [cut.id for cut in cuts]
    seconds = sum(cut.duration for cut in cuts)
    assert tally.info == SplitInfo(utterances=3, hours=round(seconds / 3600, 4), speakers=3)
    assert Tally().info == SplitInfo(utterances=0, hours=0.0, speakers=0)


def test_a_missing_folder_is_named_with_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(
        CorpusError, match=r"nowhere: no such folder; 'mt4ssl-bench prepare --help'"
    ):
        Corpus.open(tmp_path / "nowhere")


def test_a_folder_without_corpus_json_is_named_with_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(
        CorpusError, match=r"holds no corpus\.json; 'mt4ssl-bench prepare' makes one"
    ):
        Corpus.open(tmp_path)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8765/shards", "https://host/shards", "s3://bucket/shards"]
)
def test_a_url_that_was_taken_for_a_path_is_named_with_what_to_do(url: str) -> None:
    with pytest.raises(
        CorpusError,
        match=f"^corpus {url}: only pretraining reads a URL; copy the shards to a folder",
    ):
        Corpus.open(Path(url))


def _drop_digest(raw: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in raw.items() if key != "digest"})


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: "{not json",
        lambda _: "",
        lambda _: "[1, 2]",
        lambda _: "{}",
        lambda raw: json.dumps(raw)[:-40],
        _drop_digest,
        lambda raw: json.dumps({**raw, "surprise": 1}),
        lambda raw: json.dumps({**raw, "splits": {"train": {"utterances": 2}}}),
        lambda raw: json.dumps({**raw, "splits": ["train"]}),
        lambda raw: json.dumps({**raw, "splits": {"train": 3}}),
    ],
)
def test_a_damaged_corpus_json_is_named(
    tmp_path: Path, damage: Callable[[dict[str, Any]], str]
) -> None:
    raw = store(tmp_path)
    (tmp_path / "corpus.json").write_text(damage(raw), encoding="utf-8")
    with pytest.raises(
        CorpusError, match=r"corpus\.json: not a corpus of this version .*; prepare it again"
    ):
        Corpus.open(tmp_path)


def test_bytes_that_are_no_text_are_a_damaged_corpus_json(tmp_path: Path) -> None:
    (tmp_path / "corpus.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CorpusError, match="not a corpus of this version"):
        Corpus.open(tmp_path)


def test_another_format_is_refused_with_both_numbers(tmp_path: Path) -> None:
    store(tmp_path, format=2)
    with pytest.raises(
        CorpusError, match=r"corpus\.json: format 2, this version reads 1; prepare it again"
    ):
        Corpus.open(tmp_path)


def test_an_unknown_split_meets_its_near_miss(tmp_path: Path) -> None:
    store(tmp_path)
    with pytest.raises(CorpusError, match=r"no split 'trian'; did you mean train"):
        Corpus.open(tmp_path).cuts("trian")


def test_an_empty_split_is_an_error_when_it_is_asked_for(tmp_path: Path) -> None:
    store(tmp_path)
    with pytest.raises(CorpusError, match="split 'empty' holds no utterance"):
        Corpus.open(tmp_path).cuts("empty")


def test_a_split_whose_file_is_missing_is_named(tmp_path: Path) -> None:
    store(tmp_path)
    with pytest.raises(CorpusError, match=r"train\.jsonl\.gz: missing from the corpus"):
        Corpus.open(tmp_path).cuts("train")


def test_a_split_is_one_line_of_json_per_utterance(corpus: Corpus) -> None:
    with gzip.open(corpus.root / "valid.jsonl.gz", "rt", encoding="utf-8") as file:
        assert [json.loads(line)["id"] for line in file] == ["s0-1", "s1-1", "s2-1"]


def test_an_info_without_the_optional_facts_has_their_defaults() -> None:
    info = CorpusInfo(name="n", digest="d", splits={}, fields=[])
    assert (info.format, info.licence, info.synthetic, info.languages, info.notes) == (
        1,
        "unknown",
        False,
        [],
        {},
    )
