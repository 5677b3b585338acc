"""Labels, turns, other audio and lists: from a table to cuts, checks, segments and shards alike."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mt4ssl_bench.cli.app import app
from mt4ssl_bench.corpora.check import check_corpus
from mt4ssl_bench.corpora.prepare_source import Request, prepare_source
from mt4ssl_bench.corpora.segment import segment_corpus
from mt4ssl_bench.corpora.shard import shard_corpus
from mt4ssl_bench.corpora.source import SOURCES
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import (
    Turn,
    field_of,
    is_silent,
    label_of,
    labels_of,
    others_of,
    stored_turns,
    turns_of,
)
from mt4ssl_bench.data.label_store import CarriedLabels, write_labels
from mt4ssl_bench.data.labels import LabelInfo
from mt4ssl_bench.errors import AudioChangedError, ConfigError, CorpusError

RATE = 16_000
SECONDS = {"a": 2.0, "b": 1.0, "c": 1.0, "d": 1.0}
TABLE = """id path split label:emotion label:fold other:clean
a a.wav train joy 1 a_clean.wav
b b.wav train calm 1 b_clean.wav
c c.wav valid calm 2 c_clean.wav
d d.wav test joy 3 d_clean.wav
"""
RTTM = """SPEAKER a 1 0.25 0.5 <NA> <NA> ann <NA> <NA>
SPEAKER a 1 0.50 1.5 <NA> <NA> bob <NA> <NA>
SPEAKER b 1 0.00 1.0 <NA> <NA> ann <NA> <NA>
SPEAKER c 1 0.10 0.4 <NA> <NA> ann <NA> <NA>
SPEAKER d 1 0.10 0.4 <NA> <NA> bob <NA> <NA>
"""
TRIALS = "label\tenrol_id\ttest_id\n1\ta\td\n0\tb\tc\n"
GRID = """File type = "ooTextFile"
Object class = "TextGrid"

0 1 <exists> 1 "IntervalTier" "phones" 0 1 1 {start} {end} "AA"
"""
BOTH = [Turn(0.25, 0.75, "ann"), Turn(0.5, 2.0, "bob")]

Prepare = Callable[..., Corpus]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, seconds in SECONDS.items():
        for suffix in ("", "_clean"):
            samples = 0.1 * rng.standard_normal(round(seconds * RATE))
            soundfile.write(tmp_path / f"{name}{suffix}.wav", samples, RATE)
    (tmp_path / "m.tsv").write_text(TABLE.replace(" ", "\t"))
    (tmp_path / "t.rttm").write_text(RTTM)
    (tmp_path / "trials.tsv").write_text(TRIALS)
    return tmp_path


@pytest.fixture
def prepare(folder: Path) -> Prepare:
    """Prepare the table, with its turns and trials unless other options are given."""
    source = SOURCES.get("table")

    def run(out: str = "out", *, partial: bool = False, **options: object) -> Corpus:
        given = {"rttm": folder / "t.rttm", "list": (f"trials={folder / 'trials.tsv'}",)} | options
        request = Request(roots={"": folder / "m.tsv"}, partial=partial)
        return prepare_source(source, source.options(**given), folder / out, request).corpus

    return run


def edit(file: Path, old: str, new: str) -> None:
    content = file.read_text()
    assert old in content
    file.write_text(content.replace(old, new))


def test_all_of_it_is_in_the_cuts_and_named_in_corpus_json(prepare: Prepare, folder: Path) -> None:
    corpus = prepare()
    assert corpus.info.fields == ["emotion", "fold", "other:clean", "turns:speakers"]
    assert corpus.info.lists == {"trials": 2}
    assert corpus.list("trials")[0] == {"label": "1", "enrol_id": "a", "test_id": "d"}
    cut = next(cut for cut in corpus.cuts("train") if cut.id == "a")
    assert labels_of(cut) == {"emotion": "joy", "fold": "1"}
    assert (label_of(cut, "fold"), field_of(cut, "emotion"), field_of(cut, "text")) == (
        "1",
        "joy",
        "",
    )
    assert list(turns_of(cut, "speakers")) == BOTH
    assert turns_of(cut, "words") == ()
    assert others_of(cut) == {"clean": folder / "a_clean.wav"}
    clean, _ = soundfile.read(folder / "a_clean.wav", dtype="float32")
    assert np.array_equal(audio.read(cut, "clean"), clean)
    assert not np.array_equal(audio.read(cut), clean)
    with pytest.raises(
        CorpusError, match="utterance 'a': no other audio 'clen'; did you mean clean"
    ):
        audio.read(cut, "clen")
    with pytest.raises(CorpusError, match=r"no list 'trails'; did you mean trials\?"):
        corpus.list("trails")


def test_a_part_of_a_cut_has_the_turns_and_the_other_audio_of_that_part(prepare: Prepare) -> None:
    cut = next(cut for cut in prepare().cuts("train") if cut.id == "a")
    part = cut.truncate(offset=0.6, duration=0.5, preserve_id=True)
    bob = Turn(0.0, 0.5, "bob")
    ann = Turn(0.0, pytest.approx(0.15), "ann")
    assert turns_of(part, "speakers") == (ann, bob)
    whole = audio.read(cut, "clean")
    assert np.array_equal(audio.read(part, "clean"), whole[9_600:17_600])


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("m.tsv", "joy\t1", "sad\t1"),
        ("m.tsv", "label:fold", "label:session"),
        ("m.tsv", "d_clean.wav", "c_clean.wav"),
        ("t.rttm", "0.25 0.5", "0.25 0.6"),
        ("t.rttm", "ann", "eve"),
        ("trials.tsv", "1\ta", "0\ta"),
    ],
)
def test_each_is_part_of_the_digest(
    prepare: Prepare, folder: Path, file: str, old: str, new: str
) -> None:
    before = prepare("one").info.digest
    assert prepare("two").info.digest == before
    edit(folder / file, old, new)
    assert prepare("three").info.digest != before


def test_without_them_the_digest_is_that_of_earlier_versions(
    prepare: Prepare, folder: Path
) -> None:
    (folder / "m.tsv").write_text("id\tpath\ttext\temotion\nu\td.wav\tONE\tjoy\n")
    soundfile.write(folder / "d.wav", np.zeros(RATE) + 0.5, RATE)
    corpus = prepare(rttm=None, list=())
    assert corpus.info.digest == "197379be4f424217"  # as revision 16264c9 has it
    assert "lists" not in json.loads((corpus.root / "corpus.json").read_text())
    (cut,) = corpus.cuts("train")
    assert labels_of(cut) == {}
    assert cut.custom.keys() == {"content", "bytes", "modified"}


def test_a_corpus_that_holds_its_audio_can_be_moved_with_the_other_audio(
    prepare: Prepare, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    prepare(".")
    moved = folder.rename(tmp_path_factory.mktemp("moved") / "here")
    cut = next(iter(Corpus.open(moved).cuts("valid")))
    assert others_of(cut) == {"clean": moved / "c_clean.wav"}
    assert len(audio.read(cut, "clean")) == RATE


def test_other_audio_that_changed_is_an_error_that_names_it(prepare: Prepare, folder: Path) -> None:
    corpus = prepare()
    soundfile.write(folder / "c_clean.wav", np.ones(RATE) / 2, RATE)
    cut = next(iter(corpus.cuts("valid")))
    assert len(audio.read(cut)) == RATE
    with pytest.raises(AudioChangedError, match=r"'c': .*c_clean\.wav changed since"):
        audio.read(cut, "clean")
    for full in (True, False):
        (finding,) = [f for f in check_corpus(corpus, full=full).findings if f.kind == "changed"]
        assert finding.examples[0].split()[0] == "c"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "m.tsv",
            "joy\t1",
            "\t1",
            "'a' has no emotion (line 2; 1 of 4 rows have a gap); fill it in",
        ),
        ("m.tsv", "\tc_clean.wav", "\t", "'c' has no other:clean (line 4; 1 of 4 rows"),
        ("m.tsv", "c_clean.wav", "gone.wav", "1 of its 8 audio files are missing, the first is "),
        ("m.tsv", "c_clean.wav", "a.wav", "'c': other audio clean has 32,000 samples at 16,000 Hz"),
        ("m.tsv", "label:fold", "label:speaker", "'speaker' cannot name a label"),
        ("m.tsv", "\ttest", "\tTrain", "the splits 'Train' and 'train' differ in case only"),
        ("m.tsv", "label:fold", "label:", "'' cannot name a label"),
        ("t.rttm", "SPEAKER c", "SPEAKER x", "'c' has no turns:speakers (line 4; 1 of 4 rows"),
        ("t.rttm", "0.25 0.5", "0.25 -0.5", "line 1: the turn ends before it starts (-0.5 s)"),
        ("t.rttm", "0.25 0.5", "0.25 half", "line 1: 'SPEAKER a 1 0.25 half"),
        (
            "t.rttm",
            "0.50 1.5",
            "2.50 1.5",
            "'a': a turn reaches beyond the utterance: speakers 'bob'",
        ),
        ("trials.tsv", "0\tb\tc", "0\tb\te", "list 'trials', row 2: test_id names no utterance of"),
        ("trials.tsv", "0\tb\tc", "0\tb", "line 3: 2 cells; expected 3, separated by tabs"),
        ("trials.tsv", "enrol_id", "test_id", "its header has an empty or repeated column"),
    ],
)
def test_a_fault_is_one_line_and_nothing_is_written(
    prepare: Prepare, folder: Path, file: str, old: str, new: str, message: str
) -> None:
    edit(folder / file, old, new)
    with pytest.raises(CorpusError) as caught:
        prepare()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (folder / "out").exists()


def test_partial_leaves_out_and_counts_what_lacks_something(prepare: Prepare, folder: Path) -> None:
    edit(folder / "m.tsv", "calm\t2", "\t2")
    edit(folder / "t.rttm", "0.50 1.5", "2.50 1.5")
    (folder / "trials.tsv").write_text(TRIALS + "1\tb\td\n")
    corpus = prepare(partial=True)
    assert {name: split.utterances for name, split in corpus.info.splits.items()} == {
        "train": 1,
        "test": 1,
    }
    notes = corpus.info.notes
    assert (notes["no_emotion"], notes["turn_outside"]) == (1, 1)
    assert notes["list_rows"] == 2
    assert notes["list_rows_examples"][0] == "'a' (list 'trials', row 1)"


def test_a_list_that_names_only_what_was_left_out_is_refused(
    prepare: Prepare, folder: Path
) -> None:
    edit(folder / "m.tsv", "joy\t1", "\t1")
    (folder / "trials.tsv").write_text("enrol_id\na\n")
    with pytest.raises(
        CorpusError, match="list 'trials': each row names an utterance that is not in the corpus"
    ):
        prepare(partial=True)


def test_a_label_under_two_names_is_refused(prepare: Prepare, folder: Path) -> None:
    edit(folder / "m.tsv", "label:fold", "emotion")
    with pytest.raises(CorpusError, match=r"m\.tsv: column 'label:emotion' is there twice; leave"):
        prepare(label=("emotion",))


@pytest.mark.parametrize("argument", ["trials", "=x.tsv", "../x=x.tsv"])
def test_a_list_without_a_name_is_refused(prepare: Prepare, argument: str) -> None:
    with pytest.raises(ConfigError, match="expected NAME=FILE, for example trials=trials.tsv"):
        prepare(list=(argument,))


def test_textgrid_and_ctm_give_turns_of_their_tiers(prepare: Prepare, folder: Path) -> None:
    lines = [f"{name} 1 0.1 0.3 {phone}" for name in SECONDS for phone in ("AA", "B")]
    (folder / "a.ctm").write_text("\n".join(lines) + "\n")
    corpus = prepare(alignment=folder / "a.ctm", tier=("words",))
    assert {"turns:speakers", "turns:words"} <= set(corpus.info.fields)
    cut = next(iter(corpus.cuts("test")))
    assert turns_of(cut, "words") == (Turn(0.1, 0.4, "AA"), Turn(0.1, 0.4, "B"))


@pytest.mark.parametrize("kind", ["textgrid", "ctm", "rttm"])
def test_files_of_one_name_in_two_folders_never_share_their_turns(
    prepare: Prepare, folder: Path, kind: str
) -> None:
    for name in ("x", "y"):
        (folder / name).mkdir()
        shutil.copy(folder / "b.wav", folder / name / "001.wav")
    shutil.copy(folder / "c.wav", folder / "y" / "002.wav")
    rows = ["id path split", "u x/001.wav train", "v y/001.wav train", "w y/002.wav test"]
    (folder / "m.tsv").write_text("\n".join(rows).replace(" ", "\t") + "\n")
    (folder / "t.ctm").write_text("x-001 1 0.1 0.3 AA\n001 1 0.2 0.3 B\n002 1 0.3 0.3 K\n")
    lines = [f"SPEAKER {name} 1 {start} 0.3 <NA> <NA> ann <NA> <NA>"
             for name, start in (("x-001", 0.1), ("001", 0.2), ("002", 0.3))]  # fmt: skip
    (folder / "t.rttm").write_text("\n".join(lines) + "\n")
    for name, start in (("x/001", 0.1), ("elsewhere/002", 0.3)):
        file = folder / "tg" / f"{name}.TextGrid"
        file.parent.mkdir(parents=True)
        file.write_text(GRID.format(start=start, end=start + 0.3), encoding="utf-8")
    alignments = {"textgrid": folder / "tg", "ctm": folder / "t.ctm"}
    options = {"alignment": alignments.get(kind), "list": ()}
    options["rttm"] = folder / "t.rttm" if kind == "rttm" else None
    tier = "speakers" if kind == "rttm" else "phones"
    with pytest.raises(CorpusError, match=rf"'v' has no turns:{tier} \(line 3; 1 of 3 rows"):
        prepare(**options)
    corpus = prepare(partial=True, **options)
    starts = {
        cut.id: [turn.start for turn in turns_of(cut, tier)]
        for split in ("train", "test")
        for cut in corpus.cuts(split)
    }
    assert starts == {"u": [0.1], "w": [0.3]}


def test_check_counts_classes_and_turns_and_finds_what_only_one_split_has(
    prepare: Prepare, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(folder / "m.tsv", "joy\t3", "rage\t3")
    report = check_corpus(prepare())
    found = {(f.kind, f.split): f.examples for f in report.findings if "label" in f.kind}
    assert found == {
        ("new_label", "test"): ["emotion=rage"],
        ("train_label", "train"): ["emotion=joy"],
    }, "another fold is no class that training lacks"
    labels, turns = report.splits["train"]["labels"], report.splits["train"]["turns"]
    assert labels["emotion"] == {
        "classes": 2, "largest": ("joy", 0.5), "smallest": ("calm", 0.5), "balance": 1.0
    }  # fmt: skip
    assert turns["speakers"] == {"turns": 3, "labels": 2, "hours": round(3 / 3600, 4)}
    app(["check", str(folder / "out")], standalone_mode=False)
    printed = capsys.readouterr().out
    assert "emotion: 2 classes, from 'joy' (50.0 %) to 'calm' (50.0 %), balance 1.00" in printed
    assert "turns of speakers: 3 with 2 labels, 0.00 h" in printed


def test_segments_keep_labels_other_audio_and_turns_cut_at_their_borders(
    prepare: Prepare,
) -> None:
    corpus = prepare()
    made = segment_corpus(corpus, corpus.root / "s", max_seconds=1.2, min_seconds=0.2, by="windows")
    assert made.info.fields == corpus.info.fields
    pieces = [cut for cut in made.cuts("train") if cut.id.startswith("a-")]
    assert [labels_of(cut)["emotion"] for cut in pieces] == ["joy", "joy"]
    assert turns_of(pieces[0], "speakers") == (Turn(0.25, 0.75, "ann"), Turn(0.5, 1.0, "bob"))
    assert turns_of(pieces[1], "speakers") == (Turn(0.0, 1.0, "bob"),)
    whole = next(cut for cut in corpus.cuts("train") if cut.id == "a")
    halves = [audio.read(cut, "clean") for cut in pieces]
    assert np.array_equal(np.concatenate(halves), audio.read(whole, "clean"))
    assert made.list("trials") == corpus.list("trials")[1:]  # of the other one, 'a' is in pieces
    assert made.info.notes["list_rows"] == 1
    assert not check_corpus(made).invalid


def test_shards_carry_labels_turns_and_lists_beside_cluster_labels(
    prepare: Prepare, folder: Path
) -> None:
    (folder / "m.tsv").write_text(
        "\n".join(line.rpartition(" ")[0] for line in TABLE.splitlines()).replace(" ", "\t") + "\n"
    )
    corpus = prepare()
    info = LabelInfo(digest=corpus.info.digest, clusters=3)
    ids = {name: np.full(round(50 * s), 2, np.uint16) for name, s in SECONDS.items()}
    store = write_labels(folder / "labels", info, ids.items())
    for labels, out in ((store, "with"), (None, "without")):
        made = shard_corpus(corpus, folder / out, labels=labels)
        assert (made.info.lists, made.info.fields) == (corpus.info.lists, corpus.info.fields)
        assert made.list("trials") == corpus.list("trials")
        cut = next(cut for cut in made.cuts("train") if cut.id == "a")
        assert labels_of(cut) == {"emotion": "joy", "fold": "1"}
        assert list(turns_of(cut, "speakers")) == BOTH
        if labels:
            carried = CarriedLabels([made.info.labels], corpus.info.digest, 3)
            assert carried.of(cut, 99).tolist() == [2] * 99
        assert not check_corpus(made).invalid
    some = shard_corpus(corpus, folder / "train", splits=["train"])
    assert some.info.lists == {}
    assert some.info.notes["list_rows"] == 2


def test_shards_of_a_piece_have_its_own_turns(prepare: Prepare, folder: Path) -> None:
    (folder / "m.tsv").write_text("id\tpath\tsplit\na\ta.wav\ttrain\n")
    corpus = prepare(list=())
    pieces = segment_corpus(corpus, folder / "s", max_seconds=1.2, min_seconds=0.2, by="windows")
    made = shard_corpus(pieces, folder / "shards")
    turns = {cut.id: turns_of(cut, "speakers") for cut in made.cuts("train")}
    assert turns["a-0001"] == (Turn(0.0, 1.0, "bob"),)


def test_shards_of_a_corpus_with_other_audio_are_refused_in_one_line(
    prepare: Prepare, folder: Path
) -> None:
    with pytest.raises(CorpusError, match="has other:clean; shards carry one audio of each"):
        shard_corpus(prepare(), folder / "shards")
    assert not (folder / "shards").exists()


def test_turns_of_speakers_beyond_the_end_are_cut_off_and_counted(
    prepare: Prepare, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit(folder / "t.rttm", "0.50 1.5", "0.50 9.5")
    corpus = prepare()
    (cut,) = [cut for cut in corpus.cuts("train") if cut.id == "a"]
    assert stored_turns(cut) == {"speakers": BOTH}
    assert corpus.info.notes["turns_cut_off"] == 1
    assert (
        "turns of speakers reach beyond the end, where they are cut off: 1 utterances"
        in caplog.text
    )
    assert not [f for f in check_corpus(corpus, full=False).findings if f.kind == "turn_outside"]


def test_overlapping_turns_of_one_speaker_are_counted_and_named(
    prepare: Prepare, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit(folder / "t.rttm", "SPEAKER c", "SPEAKER c 1 0.45 0.2 <NA> <NA> ann <NA> <NA>\nSPEAKER c")
    edit(folder / "t.rttm", "SPEAKER d", "SPEAKER d 1 0.50 0.2 <NA> <NA> bob <NA> <NA>\nSPEAKER d")
    corpus = prepare()
    assert corpus.info.notes["turns_overlapping"] == 1, "those of d touch"
    assert "turns of one speaker overlap; diarization merges them: 1 utterances" in caplog.text
    assert "the first is 'c'" in caplog.text


def test_a_recording_without_speech_needs_no_texts_of_the_others(
    prepare: Prepare, folder: Path
) -> None:
    edit(folder / "t.rttm", "SPEAKER b 1 0.00 1.0 <NA> <NA> ann <NA> <NA>\n", "")
    with pytest.raises(
        CorpusError, match="'b' has no turns:speakers .*write <silence> as the text"
    ):
        prepare()
    lines = (folder / "m.tsv").read_text().splitlines()
    texts = ["text", "", "<silence>", "", ""]
    table = "".join(f"{line}\t{text}\n" for line, text in zip(lines, texts, strict=True))
    (folder / "m.tsv").write_text(table)
    corpus = prepare()
    assert corpus.info.fields == ["emotion", "fold", "other:clean", "turns:speakers"]
    silent = {cut.id: is_silent(cut) for split in corpus.info.splits for cut in corpus.cuts(split)}
    assert silent == {"a": False, "b": True, "c": False, "d": False}
    (folder / "m.tsv").write_text(table.replace("<silence>", "SOMETHING"))
    with pytest.raises(CorpusError, match="'a' has no text"):
        prepare("again")
