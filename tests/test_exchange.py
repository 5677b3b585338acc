"""Corpora of other toolkits: fairseq's lists, Lhotse's manifests and Shar, Hugging Face; their faults are named."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from mt4ssl_bench import audio
from mt4ssl_bench.cli import app
from mt4ssl_bench.corpus import Corpus, phones_of, speaker_of, text_of
from mt4ssl_bench.errors import ConfigError, CorpusError
from mt4ssl_bench.exchange import fairseq, lhotse, read_splits
from mt4ssl_bench.manifest import Row
from mt4ssl_bench.prepare import prepare_rows
from mt4ssl_bench.upstream.labels import LabelStore

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


def by_id(corpus: Corpus, split: str) -> dict[str, Any]:
    return {cut.id: cut for cut in corpus.cuts(split)}


# ---- fairseq ----


def lists(folder: Path, sounds: Path) -> Path:
    (folder / "train.tsv").write_text(f"{sounds}\na.flac\t16000\ndeep/b.wav\t32000\n", encoding="utf-8")
    (folder / "train.ltr").write_text("O N E | T W O |\nT H R E E |\n", encoding="utf-8")
    (folder / "train.km").write_text(f"{'3 ' * 49}\n{'7 ' * 99}\n", encoding="utf-8")
    (folder / "valid.tsv").write_text(f"{sounds}\nc.flac\t48000\n", encoding="utf-8")
    (folder / "valid.wrd").write_text("FOUR\n", encoding="utf-8")
    return folder


def test_fairseqs_lists_become_a_corpus_with_texts_and_labels(
    tmp_path: Path, sounds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = lists(tmp_path, sounds), tmp_path / "out"
    run("fairseq", f"train={folder / 'train.tsv'}", f"valid={folder / 'valid.tsv'}", "--out", out)
    corpus = Corpus.open(out)
    assert {key: text_of(cut) for key, cut in by_id(corpus, "train").items()} == {"a": "ONE TWO", "deep-b": "THREE"}
    assert text_of(by_id(corpus, "valid")["c"]) == "FOUR"
    assert phones_of(by_id(corpus, "train")["a"]) == "W AH1 N T UW1"
    store = LabelStore(out / "labels-km").check(corpus.info.digest, 8)
    assert store.get("deep-b", 99).tolist() == [7] * 99
    assert f"targets.offline.labels={out / 'labels-km'} targets.offline.clusters=8" in capsys.readouterr().out.replace(
        "\n", ""
    )


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train.tsv", "a.flac\t16000\n", "not a list of fairseq's: its first line is the folder"),
        ("train.tsv", "{sounds}\na.flac 16000\n", "line 2: 'a.flac 16000'; expected path<tab>samples"),
        ("train.tsv", "{sounds}\na.flac\t16000\ngone.flac\t1\n", "1 of its 2 audio files are missing"),
        ("train.tsv", "{sounds}\na.flac\t99000\ndeep/b.wav\t32000\n", "'a' lasts 1.00 s, not 6.19 s as stated"),
        ("train.ltr", "O N E |\n", "train.ltr: 1 lines for 2 utterances of train.tsv"),
    ],
)
def test_a_bad_list_is_named_and_nothing_is_written(
    tmp_path: Path, sounds: Path, file: str, content: str, message: str
) -> None:
    folder = lists(tmp_path, sounds)
    (folder / file).write_text(content.replace("{sounds}", str(sounds)), encoding="utf-8")
    if "gone" in content:
        (folder / "train.ltr").unlink()
    with pytest.raises(CorpusError) as caught:
        prepare_rows(fairseq({"train": folder / "train.tsv"}), tmp_path / "out", source=folder, name="x")
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_splits_are_named_on_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'train.tsv': expected SPLIT=PATH"):
        read_splits(["train.tsv"])
    with pytest.raises(CorpusError, match="gone.tsv: no such file or folder"):
        read_splits([f"train={tmp_path / 'gone.tsv'}"])


# ---- Lhotse ----


def manifests(folder: Path, sounds: Path) -> tuple[Any, Any]:
    """Two recordings; the second holds two utterances."""
    from lhotse import Recording, RecordingSet, SupervisionSegment, SupervisionSet

    recordings = [Recording.from_file(sounds / "a.flac"), Recording.from_file(sounds / "c.flac")]
    said = [
        SupervisionSegment("u1", "a", 0, 1, text="ONE  TWO", speaker="ann", language="English"),
        SupervisionSegment("u2", "c", 0.5, 1, text="THREE", speaker="bob", language="English"),
        SupervisionSegment(
            "u3", "c", 1.5, 1.25, text="FOUR", speaker="bob", language="English", custom={"phones": "F"}
        ),
    ]
    pair = RecordingSet.from_recordings(recordings), SupervisionSet.from_segments(said)
    pair[0].to_file(folder / "x_recordings_train.jsonl.gz")
    pair[1].to_file(folder / "x_supervisions_train.jsonl.gz")
    return pair


@pytest.mark.parametrize("kind", ["supervisions", "cuts", "shar"])
def test_lhotses_manifests_cuts_and_shar_give_the_same_utterances(tmp_path: Path, sounds: Path, kind: str) -> None:
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
    assert (corpus.info.languages, corpus.info.phones_from) == (["en"], "cmudict, first pronunciation")


def test_utterances_of_one_recording_are_no_duplicates_and_count_in_the_digest(tmp_path: Path, sounds: Path) -> None:
    def corpus(seconds: float, out: str) -> Corpus:
        rows = [
            Row(id="u", path=sounds / "c.flac", seconds=1.0, split="train"),
            Row(id="v", path=sounds / "c.flac", start=1.0, seconds=seconds, split="valid"),
        ]
        return prepare_rows(rows, tmp_path / out, source=sounds, name="x")

    first = corpus(1.0, "one")
    assert "check" not in first.info.notes
    assert corpus(1.5, "two").info.digest != first.info.digest
    with pytest.raises(CorpusError, match=r"utterance 'v': 1\.00-5\.00 s of a file of 3\.00 s"):
        corpus(4.0, "three")


def test_what_is_not_lhotses_or_not_a_plain_cut_is_named(tmp_path: Path, sounds: Path) -> None:
    from lhotse import AudioSource, CutSet, Recording

    read = partial(lhotse, keep=tmp_path)
    (tmp_path / "bad.jsonl").write_text('{"id": 1}\n', encoding="utf-8")
    with pytest.raises(CorpusError, match=r"bad\.jsonl: not a manifest of Lhotse's"):
        list(read({"train": tmp_path / "bad.jsonl"}))
    manifests(tmp_path, sounds)
    (tmp_path / "x_recordings_train.jsonl.gz").unlink()
    with pytest.raises(CorpusError, match="x_recordings_train.jsonl.gz: missing beside x_supervisions_train.jsonl.gz"):
        list(read({"train": tmp_path / "x_supervisions_train.jsonl.gz"}))
    cut = Recording.from_file(sounds / "a.flac").to_cut()
    CutSet.from_cuts([cut.pad(duration=4)]).to_file(tmp_path / "mixed.jsonl")
    with pytest.raises(CorpusError, match="is a MixedCut; only plain cuts"):
        list(read({"train": tmp_path / "mixed.jsonl"}))
    cut.recording.sources[0] = AudioSource(type="url", channels=[0], source="http://x/a.wav")
    CutSet.from_cuts([cut]).to_file(tmp_path / "far.jsonl")
    with pytest.raises(CorpusError, match="has audio of type url; expected one file"):
        list(read({"train": tmp_path / "far.jsonl"}))


# ---- Hugging Face ----


def test_a_dataset_of_hugging_face_on_disk_becomes_a_corpus(tmp_path: Path, sounds: Path) -> None:
    datasets = pytest.importorskip("datasets")
    raw = (sounds / "deep" / "b.wav").read_bytes()
    audios = [{"path": str(sounds / "a.flac"), "bytes": None}, {"path": "b.wav", "bytes": raw}]

    def part(rows: list[int]) -> Any:
        columns = {"audio": [audios[r] for r in rows], "sentence": ["one  two", "three"][: len(rows)],
                   "client_id": ["ann", "bob"][: len(rows)]}  # fmt: skip
        return datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio(decode=False))

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
