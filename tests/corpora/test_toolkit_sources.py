"""Corpora of other toolkits: fairseq's lists, Lhotse's manifests and Shar, Hugging Face.

Their faults are named.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from mt4ssl_bench.cli.app import app
from mt4ssl_bench.corpora.prepare import prepare
from mt4ssl_bench.corpora.prepare_source import read_splits
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.source import SOURCES
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import is_silent, phones_of, speaker_of, text_of
from mt4ssl_bench.data.label_store import LabelStore
from mt4ssl_bench.errors import ConfigError, CorpusError

RATE = 16_000


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """sounds/a.flac (1 s), sounds/deep/b.wav (2 s) and sounds/c.flac (3 s)."""
    rng = np.random.default_rng(0)
    (tmp_path / "sounds" / "deep").mkdir(parents=True)
    for seconds, name in enumerate(("a.flac", "deep/b.wav", "c.flac"), start=1):
        soundfile.write(tmp_path / "sounds" / name, 0.1 * rng.standard_normal(seconds * RATE), RATE)
    return tmp_path / "sounds"


def run(*arguments: object) -> None:
    app(["prepare", *map(str, arguments)], standalone_mode=False)


def rows(name: str, root: Path, **options: object) -> list[Row]:
    """Read one path of a source."""
    source = SOURCES.get(name)
    return list(source.read(root, source.options(**options)))


def by_id(corpus: Corpus, split: str) -> dict[str, Any]:
    return {cut.id: cut for cut in corpus.cuts(split)}


# ---- fairseq ----


def lists(folder: Path, sounds: Path) -> Path:
    (folder / "train.tsv").write_text(
        f"{sounds}\na.flac\t16000\ndeep/b.wav\t32000\n", encoding="utf-8"
    )
    (folder / "train.ltr").write_text("O N E | T W O |\nT H R E E |\n", encoding="utf-8")
    (folder / "train.km").write_text(f"{'3 ' * 49}\n{'7 ' * 99}\n", encoding="utf-8")
    (folder / "valid.tsv").write_text(f"{sounds}\nc.flac\t48000\n", encoding="utf-8")
    (folder / "valid.wrd").write_text("FOUR\n", encoding="utf-8")
    return folder


def test_fairseqs_lists_become_a_corpus_with_texts_and_labels(
    tmp_path: Path, sounds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = lists(tmp_path, sounds), tmp_path / "out"
    shards = tmp_path / "shards"
    run(
        "fairseq",
        f"train={folder / 'train.tsv'}",
        f"valid={folder / 'valid.tsv'}",
        "--out",
        out,
        "--shards",
        shards,
    )
    corpus = Corpus.open(out)
    assert {key: text_of(cut) for key, cut in by_id(corpus, "train").items()} == {
        "a": "ONE TWO",
        "deep-b": "THREE",
    }
    assert text_of(by_id(corpus, "valid")["c"]) == "FOUR"
    assert phones_of(by_id(corpus, "train")["a"]) == "W AH1 N T UW1"
    store = LabelStore(out / "labels-km").check(corpus.info.digest, 8)
    assert store.get("deep-b", 99).tolist() == [7] * 99
    sharded = Corpus.open(shards)
    assert sharded.info.labels["clusters"] == 8
    assert by_id(sharded, "train")["deep-b"].load_labels().tolist() == [7] * 99
    assert (
        f"targets.offline.labels={out / 'labels-km'} targets.offline.clusters=8"
        in capsys.readouterr().out.replace("\n", "")
    )


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "train.tsv",
            "a.flac\t16000\n",
            "not a list of fairseq's; expected the folder of its audio",
        ),
        (
            "train.tsv",
            "{sounds}\na.flac 16000\n",
            "line 2: 'a.flac 16000'; expected path<tab>samples",
        ),
        (
            "train.tsv",
            "{sounds}\na.flac\t16000\ngone.flac\t1\n",
            "1 of its 2 audio files are missing",
        ),
        (
            "train.tsv",
            "{sounds}\na.flac\t99000\ndeep/b.wav\t32000\n",
            "'a' lasts 1.00 s, not 6.19 s as stated",
        ),
        ("train.ltr", "O N E |\n", "train.ltr: 1 lines for 2 utterances of train.tsv"),
    ],
)
def test_a_bad_list_is_named_and_nothing_is_written(
    tmp_path: Path, sounds: Path, file: str, content: str, message: str
) -> None:
    folder = lists(tmp_path, sounds)
    (folder / "train.km").unlink()
    (folder / file).write_text(content.replace("{sounds}", str(sounds)), encoding="utf-8")
    if "gone" in content:
        (folder / "train.ltr").unlink()
    with pytest.raises(CorpusError) as caught:
        run("fairseq", f"train={folder / 'train.tsv'}", "--out", tmp_path / "out")
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"{'3 ' * 49}\n{'7 ' * 50}x {'7 ' * 48}\n", "train.km, line 2: '7 7 7"),
        (f"{'3 ' * 48}-1\n{'7 ' * 99}\n", "expected cluster numbers from 0 to 65535"),
        (
            f"{'3 ' * 49}\n{'7 ' * 199}\n",
            "train.km, line 2: 199 labels for 2.00 s; expected 50 a second",
        ),
        (f"\n{'7 ' * 99}\n", "train.km, line 1: 0 labels for 1.00 s"),
        (
            f"{'3 ' * 48}\n{'7 ' * 99}\n",
            "train.km, line 1: 48 labels for 1.00 s; expected 50 a second, 49 at least",
        ),
        (f"{'3 ' * 49}\n", "train.km: 1 lines for 2 utterances"),
    ],
)
def test_bad_labels_are_named_by_line_before_anything_is_written(
    tmp_path: Path, sounds: Path, content: str, message: str
) -> None:
    folder = lists(tmp_path, sounds)
    (folder / "train.km").write_text(content, encoding="utf-8")
    with pytest.raises(CorpusError) as caught:
        run("fairseq", f"train={folder / 'train.tsv'}", "--out", tmp_path / "out")
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_fewer_clusters_than_labels_are_refused_before_anything_is_written(
    tmp_path: Path, sounds: Path
) -> None:
    folder = lists(tmp_path, sounds)
    with pytest.raises(
        ConfigError, match="--clusters 7: the .km files hold label 7; expected 8 or more"
    ):
        run("fairseq", f"train={folder / 'train.tsv'}", "--clusters", 7, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_empty_lines_at_the_end_count_only_as_texts_that_are_missing_there(
    tmp_path: Path, sounds: Path
) -> None:
    folder = lists(tmp_path, sounds)
    (folder / "train.ltr").unlink()
    with (folder / "train.tsv").open("a") as file:
        file.write("\n\n")
    for content, texts in (
        ("ONE\nTWO\n\n\n", ["ONE", "TWO"]),
        ("ONE\nTWO", ["ONE", "TWO"]),
        ("ONE\n\n", ["ONE", ""]),
    ):
        (folder / "train.wrd").write_text(content, encoding="utf-8")
        assert [row.text for row in rows("fairseq", folder / "train.tsv")] == texts
    (folder / "train.wrd").write_text("ONE\n", encoding="utf-8")
    with pytest.raises(CorpusError, match="train.wrd: 1 lines for 2 utterances"):
        rows("fairseq", folder / "train.tsv")


def test_an_argument_that_names_no_split_is_the_whole_corpus(tmp_path: Path, sounds: Path) -> None:
    folder = lists(tmp_path, sounds)
    run("fairseq", folder / "train.tsv", "--out", tmp_path / "out")
    corpus = Corpus.open(tmp_path / "out")
    assert {name: split.utterances for name, split in corpus.info.splits.items()} == {"train": 2}
    assert read_splits([f"train={folder}", f"test={sounds}"]) == {"train": folder, "test": sounds}
    assert read_splits([str(folder)]) == {"": folder}


def test_texts_of_every_source_have_single_spaces(tmp_path: Path, sounds: Path) -> None:
    def corpus(out: str, texts: list[str], phones: str = "HH AY") -> Corpus:
        names = ("a.flac", "deep/b.wav", "c.flac")
        made = [
            Row(id=name, path=sounds / name, text=text, phones=phones, split="train")
            for name, text in zip(names, texts, strict=True)
        ]
        return prepare(made, tmp_path / out, source=sounds, name="x")

    plain = corpus("plain", ["HELLO WORLD", "A B", "C"])
    odd = corpus("odd", ["HELLO\u00a0WORLD", " A \t B", "C\u3000"], "HH\u2009 AY ")
    assert odd.info.digest == plain.info.digest
    cuts = [cut for split in odd.info.splits for cut in odd.cuts(split)]
    assert sorted(text_of(cut) for cut in cuts) == ["A B", "C", "HELLO WORLD"]
    assert {phones_of(cut) for cut in cuts} == {"HH AY"}


def test_what_a_corpus_that_is_there_does_not_take_is_said(
    tmp_path: Path, sounds: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def again(language: str, licence: str) -> list[str]:
        row = Row(id="u", path=sounds / "a.flac", split="train", language=language)
        out = tmp_path / "out"
        return prepare([row], out, source=sounds, name="x", licence=licence).info.languages

    again("en", "CC0")
    with caplog.at_level("INFO", logger="mt4ssl_bench"):
        again("en", "CC0")
        assert caplog.messages[-1].endswith("already prepared as 'x', unchanged")
        assert again("de", "CC BY 4.0") == ["en"]
    said = "unchanged; for the language 'de' and the licence 'CC BY 4.0', choose another --out"
    assert caplog.messages[-1].endswith(said)


def test_a_text_of_spaces_says_that_nobody_speaks(tmp_path: Path, sounds: Path) -> None:
    folder = lists(tmp_path, sounds)
    splits = [f"{split}={folder / split}.tsv" for split in ("train", "valid")]
    (folder / "train.wrd").write_text("HELLO\u00a0WORLD\n \u00a0\n", encoding="utf-8")
    run("fairseq", *splits, "--out", tmp_path / "out")
    cuts = by_id(Corpus.open(tmp_path / "out"), "train")
    assert {name: text_of(cut) for name, cut in cuts.items()} == {"a": "HELLO WORLD", "deep-b": ""}
    assert [name for name, cut in cuts.items() if is_silent(cut)] == ["deep-b"]
    (folder / "train.wrd").unlink()
    (folder / "train.ltr").write_text("O N E | | T W O |\nT H R E E |\n", encoding="utf-8")
    run("fairseq", *splits, "--out", tmp_path / "letters")
    texts = {text_of(cut) for cut in by_id(Corpus.open(tmp_path / "letters"), "train").values()}
    assert texts == {"ONE TWO", "THREE"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.tsv"], "'train.tsv': no such file or folder; expected SPLIT=PATH, for example"),
        (["train=gone.tsv"], "'train=gone.tsv': no file or folder 'gone.tsv'; expected SPLIT=PATH"),
        (["{a}", "{b}"], "'{a}': no split; expected SPLIT=PATH, for example train={a}"),
        (["train={a}", "{b}"], "'{b}': no split; expected SPLIT=PATH, for example test={b}"),
        (["train={a}", "train={b}"], "'train={b}': split 'train' is named twice; expected it once"),
    ],
)  # fmt: skip
def test_an_argument_that_is_no_split_shows_the_right_form(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    places = {"{a}": tmp_path / "a", "{b}": tmp_path / "b"}
    for place in places.values():
        place.touch()
    for mark, place in places.items():
        arguments = [argument.replace(mark, str(place)) for argument in arguments]
        message = message.replace(mark, str(place))
    with pytest.raises(ConfigError) as caught:
        read_splits(arguments)
    assert str(caught.value).startswith(message)


# ---- Lhotse ----


def manifests(folder: Path, sounds: Path) -> tuple[Any, Any]:
    """Two recordings; the second holds two utterances."""
    from lhotse import Recording, RecordingSet, SupervisionSegment, SupervisionSet

    recordings = [Recording.from_file(sounds / "a.flac"), Recording.from_file(sounds / "c.flac")]
    said = [
        SupervisionSegment("u1", "a", 0, 1, text="ONE  TWO", speaker="ann", language="English"),
        SupervisionSegment("u2", "c", 0.5, 1, text="THREE", speaker="bob", language="English"),
        SupervisionSegment(
            "u3",
            "c",
            1.5,
            1.25,
            text="FOUR",
            speaker="bob",
            language="English",
            custom={"phones": "F"},
        ),
    ]
    pair = RecordingSet.from_recordings(recordings), SupervisionSet.from_segments(said)
    pair[0].to_file(folder / "x_recordings_train.jsonl.gz")
    pair[1].to_file(folder / "x_supervisions_train.jsonl.gz")
    return pair


@pytest.mark.parametrize("kind", ["supervisions", "cuts", "shar"])
def test_lhotses_manifests_cuts_and_shar_give_the_same_utterances(
    tmp_path: Path, sounds: Path, kind: str
) -> None:
    from lhotse import CutSet

    recordings, supervisions = manifests(tmp_path, sounds)
    source = tmp_path / "x_supervisions_train.jsonl.gz"
    cuts = CutSet.from_manifests(recordings, supervisions)
    if kind == "cuts":
        source = tmp_path / "cuts.jsonl.gz"
        cuts.to_file(source)
    if kind == "shar":
        source = tmp_path / "shar"
        source.mkdir()
        cuts.to_shar(source, fields={"recording": "flac"}, shard_size=2, warn_unused_fields=False)
    out = tmp_path / "out"
    run("lhotse", f"train={source}", "--out", out)
    corpus = Corpus.open(out)
    found = {text_of(cut): cut for split in ("train", "valid") for cut in corpus.cuts(split)}
    assert sorted(found) == ["FOUR", "ONE TWO", "THREE"]
    assert {speaker_of(cut) for cut in found.values()} == {"ann", "bob"}
    whole = soundfile.read(sounds / "c.flac", dtype="float32")[0]
    assert np.allclose(audio.read(found["FOUR"]), whole[24_000:44_000], atol=1e-4)
    assert len(audio.read(found["ONE TWO"])) == 16_000
    assert (corpus.info.languages, corpus.info.phones_from) == (
        ["en"],
        "cmudict, first pronunciation",
    )


def test_utterances_of_one_recording_are_no_duplicates_and_count_in_the_digest(
    tmp_path: Path, sounds: Path
) -> None:
    def corpus(seconds: float, out: str) -> Corpus:
        rows = [
            Row(id="u", path=sounds / "c.flac", seconds=1.0, split="train"),
            Row(id="v", path=sounds / "c.flac", start=1.0, seconds=seconds, split="valid"),
        ]
        return prepare(rows, tmp_path / out, source=sounds, name="x")

    first = corpus(1.0, "one")
    assert "check" not in first.info.notes
    assert corpus(1.5, "two").info.digest != first.info.digest
    longer = corpus(4.0, "three")
    assert longer.info.notes["outside_examples"] == ["'v' (1.00 to 5.00 s of a file of 3.00 s)"]
    assert list(longer.info.splits) == ["train"]
    with pytest.raises(CorpusError, match=r"no utterance can be used: .*positive.* is 'u' \(0\.00"):
        prepare(
            [Row(id="u", path=sounds / "c.flac", seconds=0.0, split="train")],
            tmp_path / "none", source=sounds, name="x",
        )  # fmt: skip


def test_what_is_not_lhotses_or_not_a_plain_cut_is_named(tmp_path: Path, sounds: Path) -> None:
    from lhotse import AudioSource, CutSet, Recording

    (tmp_path / "bad.jsonl").write_text('{"id": 1}\n', encoding="utf-8")
    with pytest.raises(CorpusError, match=r"bad\.jsonl: not a manifest of Lhotse's"):
        rows("lhotse", tmp_path / "bad.jsonl")
    manifests(tmp_path, sounds)
    (tmp_path / "x_recordings_train.jsonl.gz").unlink()
    with pytest.raises(
        CorpusError,
        match="x_recordings_train.jsonl.gz: missing beside x_supervisions_train.jsonl.gz",
    ):
        rows("lhotse", tmp_path / "x_supervisions_train.jsonl.gz")
    cut = Recording.from_file(sounds / "a.flac").to_cut()
    CutSet.from_cuts([cut.pad(duration=4)]).to_file(tmp_path / "mixed.jsonl")
    with pytest.raises(CorpusError, match="is a MixedCut; only plain cuts"):
        rows("lhotse", tmp_path / "mixed.jsonl")
    cut.recording.sources[0] = AudioSource(type="url", channels=[0], source="http://x/a.wav")
    CutSet.from_cuts([cut]).to_file(tmp_path / "far.jsonl")
    with pytest.raises(CorpusError, match="has audio of type url; expected one file"):
        rows("lhotse", tmp_path / "far.jsonl")


def rows_of(cuts: list[Any], folder: Path) -> list[Row]:
    from lhotse import CutSet

    CutSet.from_cuts(cuts).to_file(folder / "some.jsonl")
    return rows("lhotse", folder / "some.jsonl", audio=folder / "audio")


def samples_of(row: Row) -> Any:
    return audio.read_file(
        row.path,
        start=round(row.start * RATE),
        count=-1 if row.seconds is None else round(row.seconds * RATE),
    )


@pytest.fixture
def stereo(tmp_path: Path) -> Any:
    """A recording of 2 s with other noise in each of its two channels."""
    from lhotse import Recording

    soundfile.write(
        tmp_path / "s.wav", 0.1 * np.random.default_rng(1).standard_normal((2 * RATE, 2)), RATE
    )
    return Recording.from_file(tmp_path / "s.wav")


def test_one_channel_and_a_louder_copy_are_the_samples_that_lhotse_reads(tmp_path: Path) -> None:
    from lhotse import CutSet, MonoCut, Recording

    noise = 0.4 * np.random.default_rng(1).standard_normal((2 * RATE, 2))
    soundfile.write(tmp_path / "s.wav", noise, RATE, subtype="FLOAT")
    stereo = Recording.from_file(tmp_path / "s.wav")
    cuts = [
        MonoCut("channel", 0.5, 1.0, 1, recording=stereo),
        MonoCut("loud", 0.5, 1.0, 0, recording=stereo.perturb_volume(3.0)),
    ]
    assert np.abs(cuts[1].load_audio()).max() > 1  # type: ignore[arg-type]
    CutSet.from_cuts(cuts).to_file(tmp_path / "cuts.jsonl")
    run("lhotse", f"train={tmp_path / 'cuts.jsonl'}", "--out", tmp_path / "out")
    corpus = Corpus.open(tmp_path / "out")
    found = {cut.id: cut for split in ("train", "valid") for cut in corpus.cuts(split)}
    for cut in cuts:
        np.testing.assert_array_equal(audio.read(found[cut.id]), cut.load_audio()[0])  # type: ignore[index]


def test_silence_of_normalized_loudness_is_named(tmp_path: Path) -> None:
    from lhotse import Recording

    soundfile.write(tmp_path / "s.wav", np.zeros(2 * RATE), RATE)
    silence = Recording.from_file(tmp_path / "s.wav").normalize_loudness(-23.0).to_cut()
    with pytest.raises(CorpusError, match=r"cannot be read \(its transforms give samples that are"):
        rows_of([silence], tmp_path)


@pytest.mark.parametrize("shar", [False, True])
def test_a_cut_of_one_channel_is_heard_without_the_other(
    tmp_path: Path, stereo: Any, *, shar: bool
) -> None:
    from lhotse import CutSet, MonoCut, SupervisionSegment

    cuts = [
        MonoCut(
            f"call.{c}",
            0.5,
            1.0,
            c,
            [SupervisionSegment(f"s{c}", "s", 0, 1, c, f"T{c}")],
            recording=stereo,
        )
        for c in (0, 1)
    ]
    source = tmp_path / ("shar" if shar else "cuts.jsonl")
    if shar:
        source.mkdir()
        CutSet.from_cuts(cuts).to_shar(
            source, fields={"recording": "flac"}, warn_unused_fields=False
        )
    else:
        CutSet.from_cuts(cuts).to_file(source)
    run("lhotse", f"train={source}", "--out", tmp_path / "out")
    corpus = Corpus.open(tmp_path / "out")
    found = {cut.id: cut for split in ("train", "valid") for cut in corpus.cuts(split)}
    both = soundfile.read(tmp_path / "s.wav", dtype="float32")[0][8_000:24_000]
    for channel in (0, 1):
        cut = found[f"call.{channel}"]
        assert np.allclose(audio.read(cut), both[:, channel], atol=1e-4)
        assert text_of(cut) == f"T{channel}"
    assert "leak" not in corpus.info.notes["check"]  # they are no copies of each other


def test_a_cut_of_all_channels_is_read_where_it_lies_and_its_supervisions_say_which_they_mean(
    tmp_path: Path, stereo: Any
) -> None:
    from lhotse import SupervisionSegment

    cut = stereo.to_cut()
    assert [row.path for row in rows_of([cut], tmp_path)] == [tmp_path / "s.wav"]
    cut.supervisions = [
        SupervisionSegment("left", "s", 0, 1.5, 0),
        SupervisionSegment("right", "s", 0.5, 1.5, 1),
    ]
    left, right = rows_of([cut], tmp_path)
    both = soundfile.read(tmp_path / "s.wav", dtype="float32")[0]
    assert (left.id, right.id) == ("left", "right")
    assert np.allclose(samples_of(left), both[:24_000, 0], atol=1e-4)
    assert np.allclose(samples_of(right), both[8_000:, 1], atol=1e-4)
    cut.supervisions = [SupervisionSegment("third", "s", 0, 2, 2)]
    assert rows_of([cut], tmp_path)[0].unusable == ("no_channel", "channels [2] of 2")


def test_a_cut_with_another_speed_is_written_as_it_sounds(tmp_path: Path, sounds: Path) -> None:
    from lhotse import Recording

    cut = Recording.from_file(sounds / "deep" / "b.wav").to_cut()
    plain, fast = rows_of([cut, cut.perturb_speed(1.25)], tmp_path)
    assert plain.path == sounds / "deep" / "b.wav"
    assert len(samples_of(fast)) == 25_600
    assert np.allclose(samples_of(fast), cut.perturb_speed(1.25).load_audio()[0], atol=1e-4)
    (sounds / "deep" / "b.wav").write_bytes(b"RIFF, but no more")
    with pytest.raises(CorpusError, match="the audio of 'b_sp1.25' cannot be read"):
        rows_of([cut.perturb_speed(1.25)], tmp_path)
    (sounds / "deep" / "b.wav").unlink()
    with pytest.raises(
        CorpusError, match=r"1 of its 1 audio files are missing, the first is .*b\.wav"
    ):
        prepare(
            rows_of([cut.perturb_speed(1.25)], tmp_path), tmp_path / "out", source=sounds, name="x"
        )


def test_a_text_belongs_to_its_part_of_a_cut_alone(tmp_path: Path, sounds: Path) -> None:
    from lhotse import Recording, SupervisionSegment

    cut = Recording.from_file(sounds / "c.flac").to_cut()

    def row(start: float, seconds: float) -> Row:
        cut.supervisions = [SupervisionSegment("said", "c", start, seconds, text="ONE")]
        (found,) = rows_of([cut], tmp_path)
        return found

    whole = soundfile.read(sounds / "c.flac", dtype="float32")[0]
    assert (row(0.005, 2.99).id, row(0.005, 2.99).seconds) == ("c", None)
    assert row(1, 1).id == "said"
    assert np.array_equal(samples_of(row(1, 1)), whole[16_000:32_000])
    assert np.array_equal(samples_of(row(2, 1.05)), whole[32_000:])
    assert row(2, 2).unusable == ("outside", "2.00 to 4.00 s of a cut of 3.00 s")


@pytest.mark.parametrize(
    ("start", "seconds", "reason"),
    [
        (1.0, 0.0, "no_duration"),
        (1.0, -1.0, "no_duration"),
        (1.0, float("nan"), "no_duration"),
        (1.0, float("inf"), "no_duration"),
        (-0.5, 1.5, "outside"),
        (2.5, 1.0, "outside"),
        (7.0, 1.0, "outside"),
        (float("nan"), 1.0, "outside"),
    ],
)
def test_a_supervision_that_is_nowhere_is_left_out_and_counted(
    tmp_path: Path, sounds: Path, capsys: pytest.CaptureFixture[str], start: float, seconds: float,
    reason: str,
) -> None:  # fmt: skip
    from lhotse import CutSet, Recording, SupervisionSegment

    cut = Recording.from_file(sounds / "c.flac").to_cut()
    cut.supervisions = [
        SupervisionSegment("good", "c", 0.5, 1.0, text="ONE"),
        SupervisionSegment("odd", "c", start, seconds, text="TWO"),
    ]
    CutSet.from_cuts([cut]).to_file(tmp_path / "cuts.jsonl")
    run("lhotse", f"train={tmp_path / 'cuts.jsonl'}", "--out", tmp_path / "out")
    corpus = Corpus.open(tmp_path / "out")
    (found,) = corpus.cuts("train")
    assert (found.id, found.start, found.duration) == ("good", 0.5, 1.0)
    assert corpus.info.notes[reason] == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "left out" in x]
    assert "left out 1 of 2 utterances" in line
    assert "the first is 'odd'" in line


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), 0.0, -3.0])
def test_a_duration_that_is_none_never_becomes_the_whole_cut(
    tmp_path: Path, sounds: Path, value: float | None
) -> None:
    from lhotse import Recording, SupervisionSegment

    cut = Recording.from_file(sounds / "c.flac").to_cut()
    cut.supervisions = [SupervisionSegment("said", "c", 0, 3, text="ONE")]
    raw = cut.to_dict()
    raw["supervisions"][0]["duration"] = value
    (tmp_path / "cuts.jsonl").write_text(json.dumps(raw) + "\n")
    (row,) = rows("lhotse", tmp_path / "cuts.jsonl", audio=tmp_path / "audio")
    assert row.unusable
    assert row.unusable[0] == "no_duration"


def test_a_cut_that_lies_outside_its_recording_is_left_out(tmp_path: Path, sounds: Path) -> None:
    from lhotse import MonoCut, Recording

    recording = Recording.from_file(sounds / "c.flac")
    places = {"late": (2.5, 1.0), "none": (1.0, 0.0), "past": (2.0, 1.0 + 1 / RATE), "in": (1, 1)}
    cuts = [MonoCut(k, a, b, 0, recording=recording) for k, (a, b) in places.items()]
    found = {row.id: row.unusable and row.unusable[0] for row in rows_of(cuts, tmp_path)}
    assert found == {"late": "outside", "none": "no_duration", "past": None, "in": None}


def labelled(folder: Path, sounds: Path, field: str, values: list[Any]) -> Path:
    from lhotse import CutSet, Recording

    files = ("a.flac", "deep/b.wav")
    cuts = [Recording.from_file(sounds / file).to_cut() for file in files]
    for cut, value in zip(cuts, values, strict=True):
        cut.custom = {field: value}
    CutSet.from_cuts(cuts).to_file(folder / "cuts.jsonl.gz")
    return folder / "cuts.jsonl.gz"


@pytest.mark.parametrize("shar", [False, True])
@pytest.mark.parametrize("as_list", [False, True])
def test_labels_in_a_custom_field_of_lhotses_become_a_label_store(
    tmp_path: Path, sounds: Path, *, as_list: bool, shar: bool
) -> None:
    from lhotse import CutSet

    labels = [[3] * 49, [*range(99)]]
    values = labels if as_list else [" ".join(map(str, one)) for one in labels]
    source = labelled(tmp_path, sounds, "kmeans", values)
    if shar:
        cuts = CutSet.from_file(source)
        source = tmp_path / "shar"
        source.mkdir()
        cuts.to_shar(source, fields={"recording": "flac"}, warn_unused_fields=False)
    out = tmp_path / "out"
    run("lhotse", f"train={source}", "--labels-field", "kmeans", "--out", out)
    store = LabelStore(out / "labels-kmeans").check(Corpus.open(out).info.digest, 99)
    assert store.get("b", 99).tolist() == labels[1]
    assert (store.info.frame_rate, store.info.features) == (50, "lhotse custom field kmeans")


@pytest.mark.parametrize(
    ("values", "field", "message"),
    [
        (["3 " * 48, "7 " * 99], "k", "'a', field 'k': 48 labels for 1.00 s; expected 50 a second"),
        (["3 " * 49, "x 7"], "k", "'b', field 'k': 'x 7'; expected cluster numbers from 0 to"),
        ([[3.5] * 49, "7 " * 99], "k", "'a', field 'k': '3.5 3.5"),
        (["3 " * 49, "7 " * 99], "kmeans", "'a', field 'kmeans': missing; expected cluster"),
        (["3 " * 49, "7 " * 99], "kmeans", "custom fields there: k; --labels-field names one"),
    ],
)
def test_a_custom_field_without_one_label_a_frame_is_named_and_nothing_is_written(
    tmp_path: Path, sounds: Path, values: list[Any], field: str, message: str
) -> None:
    source = labelled(tmp_path, sounds, "k", values)
    with pytest.raises(CorpusError) as caught:
        run("lhotse", f"train={source}", "--labels-field", field, "--out", tmp_path / "out")
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_line_of_0_samples_in_fairseqs_list_is_left_out_with_its_labels(
    tmp_path: Path, sounds: Path
) -> None:
    folder, out = lists(tmp_path, sounds), tmp_path / "out"
    (folder / "train.tsv").write_text(f"{sounds}\na.flac\t0\ndeep/b.wav\t32000\n")
    run("fairseq", f"train={folder / 'train.tsv'}", "--out", out)
    corpus = Corpus.open(out)
    assert list(by_id(corpus, "train")) == ["deep-b"]
    assert corpus.info.notes["no_duration_examples"] == ["'a' (0 samples in train.tsv)"]
    assert "a" not in LabelStore(out / "labels-km")


def gappy(folder: Path, sounds: Path, texts: list[str | None]) -> Path:
    files = [{"path": str(sounds / f), "bytes": None} for f in ("a.flac", "deep/b.wav", "c.flac")]
    return dataset(folder, {"audio": files, "text": texts, "speaker": ["ann", "bob", "ann"]})


def test_a_gap_is_said_with_its_count_and_partial_leaves_it_out(
    tmp_path: Path, sounds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = gappy(tmp_path, sounds, ["one", None, "three"])
    run("hf", source, "--out", tmp_path / "out")
    assert Corpus.open(tmp_path / "out").info.fields == ["speaker"]
    assert (
        "1 of 3 utterances have no text, the first is 'train-0000001', so that text is not among "
        "the corpus's fields; fill it in, or leave these utterances out with --partial"
        in capsys.readouterr().err
    )
    run("hf", source, "--partial", "--out", tmp_path / "part")
    part = Corpus.open(tmp_path / "part")
    assert part.info.fields == ["phones", "speaker", "text"]
    assert part.info.notes["no_text_examples"] == ["'train-0000001' (split 'train')"]
    assert {text_of(cut) for split in ("train", "valid") for cut in part.cuts(split)} == {
        "one", "three"
    }  # fmt: skip


def test_an_empty_text_is_silence_and_no_gap(tmp_path: Path, sounds: Path) -> None:
    run("hf", gappy(tmp_path, sounds, ["one", " ", "three"]), "--out", tmp_path / "out")
    corpus = Corpus.open(tmp_path / "out")
    cuts = {cut.id: cut for split in ("train", "valid") for cut in corpus.cuts(split)}
    assert corpus.info.fields == ["phones", "speaker", "text"]
    assert [name for name, cut in cuts.items() if is_silent(cut)] == ["train-0000001"]
    assert (text_of(cuts["train-0000001"]), phones_of(cuts["train-0000001"])) == ("", "")


def test_a_split_of_empty_texts_has_no_texts(tmp_path: Path, sounds: Path) -> None:
    run("hf", gappy(tmp_path, sounds, ["", "", ""]), "--partial", "--out", tmp_path / "out")
    corpus = Corpus.open(tmp_path / "out")
    assert corpus.info.fields == ["speaker"]
    assert not any(is_silent(cut) for split in ("train", "valid") for cut in corpus.cuts(split))


def test_overlapping_supervisions_keep_their_own_texts(tmp_path: Path, sounds: Path) -> None:
    from lhotse import Recording, SupervisionSegment

    cut = Recording.from_file(sounds / "c.flac").to_cut()
    cut.supervisions = [
        SupervisionSegment("long", "c", 0, 3, text="LONG"),
        SupervisionSegment("short", "c", 1, 1, text="SHORT"),
    ]
    found = {row.id: (row.text, row.start, row.seconds) for row in rows_of([cut], tmp_path)}
    assert found == {"long": ("LONG", 0.0, None), "short": ("SHORT", 1.0, 1.0)}


def test_what_is_empty_or_of_another_kind_is_said_with_what_was_expected(
    tmp_path: Path, sounds: Path
) -> None:
    def message(name: str) -> str:
        with pytest.raises(CorpusError) as caught:
            rows("lhotse", tmp_path / name, audio=tmp_path / "audio")
        return str(caught.value)

    (tmp_path / "empty.jsonl").touch()
    assert message("empty.jsonl").endswith(
        "empty.jsonl: expected a CutSet of Lhotse's, got an empty file"
    )
    (tmp_path / "folder").mkdir()
    expected = "folder: expected a Shar folder with cuts.000000.jsonl.gz in it, got"
    assert message("folder").endswith(f"{expected} nothing")
    (tmp_path / "folder" / "a.tar").touch()
    assert message("folder").endswith(f"{expected} a.tar")
    manifests(tmp_path, sounds)
    assert message("x_recordings_train.jsonl.gz").endswith(
        "expected a CutSet of Lhotse's, got a RecordingSet"
    )
    (tmp_path / "supervisions.jsonl.gz").touch()
    (tmp_path / "x_recordings_train.jsonl.gz").rename(tmp_path / "recordings.jsonl.gz")
    assert "supervisions.jsonl.gz: expected a SupervisionSet of" in message("supervisions.jsonl.gz")


def test_dotted_ids_in_shar_keep_their_own_audio(tmp_path: Path, sounds: Path) -> None:
    from lhotse import CutSet, Recording

    source = tmp_path / "shar"
    source.mkdir()
    files = {"utt.0": "a.flac", "utt.1": "deep/b.wav", "utt.2": "c.flac"}
    cuts = [
        Recording.from_file(sounds / file, recording_id=name).to_cut()
        for name, file in files.items()
    ]
    CutSet.from_cuts(cuts).to_shar(source, fields={"recording": "wav"}, warn_unused_fields=False)
    for file in [source / ".DS_Store", *source.iterdir()]:  # as a Mac copies a folder
        (source / f"._{file.name.strip('.')}").write_bytes(b"\0\5\x16\7")
    read = rows("lhotse", source, audio=tmp_path / "audio")
    assert [(row.id, len(samples_of(row)) // RATE) for row in read] == [
        ("utt.0", 1),
        ("utt.1", 2),
        ("utt.2", 3),
    ]


# ---- Hugging Face ----


def test_a_dataset_of_hugging_face_on_disk_becomes_a_corpus(tmp_path: Path, sounds: Path) -> None:
    datasets = pytest.importorskip("datasets")
    raw = (sounds / "deep" / "b.wav").read_bytes()
    audios = [{"path": str(sounds / "a.flac"), "bytes": None}, {"path": "b.wav", "bytes": raw}]

    def part(rows: list[int]) -> Any:
        columns = {"audio": [audios[r] for r in rows], "sentence": ["one  two", "three"][: len(rows)],
                   "client_id": ["ann", "bob"][: len(rows)]}  # fmt: skip
        return datasets.Dataset.from_dict(columns).cast_column(
            "audio", datasets.Audio(decode=False)
        )

    made = datasets.DatasetDict({"train": part([0, 1]), "validation": part([1])})
    made.save_to_disk(str(tmp_path / "set"))
    run("hf", tmp_path / "set", "--out", tmp_path / "out")
    corpus = Corpus.open(tmp_path / "out")
    cuts = by_id(corpus, "train")
    assert {text_of(cut) for cut in cuts.values()} == {"one two", "three"}
    assert {speaker_of(cut) for cut in cuts.values()} == {"ann", "bob"}
    assert len(audio.read(cuts["train-0000001"])) == 32_000
    assert corpus.info.splits["valid"].utterances == 1
    assert corpus.info.notes["check"]["leak"] == 1  # the same recording is in both
    assert phones_of(cuts["train-0000000"]) == "W AH1 N T UW1"
    with pytest.raises(ConfigError, match="no column 'sentense'; did you mean sentence?"):
        run("hf", tmp_path / "set", "--text", "sentense", "--out", tmp_path / "none")
    with pytest.raises(CorpusError, match="sounds: not a dataset that can be opened"):
        run("hf", sounds, "--out", tmp_path / "none")


def dataset(folder: Path, columns: dict[str, list[Any]]) -> Path:
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio(decode=False))
    made.save_to_disk(str(folder / "set"))
    return folder / "set"


def test_ids_that_look_alike_as_file_names_keep_their_own_audio(tmp_path: Path) -> None:
    ids = ["utt.0", "utt.1", "a/b", "a-b", "a_b", "../up", "A_B", "\u00e4" * 300]
    sounds = []
    for number in range(len(ids)):
        soundfile.write(
            tmp_path / "one.wav", np.full(RATE, 0.01 * number), RATE
        )  # all of one length
        sounds.append({"path": None, "bytes": (tmp_path / "one.wav").read_bytes()})
    source = dataset(tmp_path, {"id": ids, "audio": sounds})
    run("hf", source, "--out", tmp_path / "out")
    corpus = Corpus.open(tmp_path / "out")
    found = {cut.id: cut for split in ("train", "valid") for cut in corpus.cuts(split)}
    assert {name: round(float(audio.read(cut)[0]) * 100) for name, cut in found.items()} == dict(
        zip(ids, range(len(ids)), strict=True)
    )
    assert len(list((tmp_path / "out" / "audio" / "train").iterdir())) == len(ids)


def test_nulls_are_missing_values_not_words(tmp_path: Path, sounds: Path) -> None:
    files = [{"path": str(sounds / file), "bytes": None} for file in ("a.flac", "deep/b.wav")]
    texts, voices = ["one", None], [None, 7]
    source = dataset(tmp_path, {"id": [0, None], "audio": files, "text": texts, "speaker": voices})
    read = rows("hf", source, audio=tmp_path / "audio")
    assert [(row.id, row.text, row.speaker) for row in read] == [
        ("0", "one", ""),
        ("train-0000001", "", "7"),
    ]


def test_rows_whose_ids_repeat_are_named_by_split_and_number(tmp_path: Path, sounds: Path) -> None:
    files = [
        {"path": str(sounds / file), "bytes": None} for file in ("a.flac", "deep/b.wav", "c.flac")
    ]
    source = dataset(
        tmp_path, {"id": [5, 5, 7], "audio": files, "transcription": ["one", "one", "two"]}
    )  # as FLEURS'
    read = rows("hf", source, audio=tmp_path / "audio")
    assert [(row.id, row.text) for row in read] == [
        ("train-0000000", "one"), ("train-0000001", "one"), ("train-0000002", "two")
    ]  # fmt: skip


def test_a_row_without_audio_is_named(tmp_path: Path) -> None:
    source = dataset(tmp_path, {"audio": [None], "text": ["one"]})
    with pytest.raises(CorpusError, match="set: 'train-0000000', row 0 of train, has no audio"):
        rows("hf", source, audio=tmp_path / "audio")


def test_a_hub_out_of_reach_is_said_in_one_line_with_what_to_do(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    command = [
        sys.executable,
        "-m",
        "mt4ssl_bench",
        "prepare",
        "hf",
        "some/speech",
        "--config",
        "en",
        "--out",
        "out",
    ]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: some/speech: the hub is out of reach (")
    assert "datasets.load_dataset('some/speech', 'en').save_to_disk('speech')" in line
    assert not (tmp_path / "out").exists()
