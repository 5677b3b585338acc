"""Manifests and folders to corpora: a bad one names its fault and writes nothing.

The digest follows the content.
"""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mt4ssl_bench.corpora.prepare_source import Request, prepare_path
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import is_silent, phones_of, speaker_of, text_of
from mt4ssl_bench.errors import CorpusError

RATE = audio.RATE


def sound(path: Path, seconds: float = 0.1) -> Path:
    """Write noise of its own for each file name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(path.name.encode()))
    soundfile.write(path, 0.1 * rng.standard_normal(round(seconds * RATE)), RATE)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a.wav (0.1 s) and b.wav (0.2 s)."""
    sound(tmp_path / "a.wav")
    sound(tmp_path / "b.wav", 0.2)
    return tmp_path


@pytest.fixture
def log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    """Return this package's warnings, also after a command line in this process has set up its own
    log.
    """
    monkeypatch.setattr(logging.getLogger("mt4ssl_bench"), "propagate", True)
    caplog.set_level(logging.WARNING, logger="mt4ssl_bench")
    return caplog


def table(folder: Path, text: str | bytes, out: str = "out") -> Corpus:
    content = text if isinstance(text, bytes) else text.replace(" | ", "\t").encode()
    (folder / "manifest.tsv").write_bytes(content)
    return prepare_path("table", folder / "manifest.tsv", folder / out)


def ids(corpus: Corpus, split: str) -> set[str]:
    return {cut.id for cut in corpus.cuts(split)} if split in corpus.info.splits else set()


def speakers(corpus: Corpus, split: str) -> set[str]:
    return {speaker_of(cut) for cut in corpus.cuts(split)}


# ---- tables ----


def test_a_table_becomes_cuts_by_split(folder: Path) -> None:
    corpus = table(
        folder,
        "id | path | duration_s | speaker | language | text | phones | split\n"
        "u1 | a.wav | 0.1 | ann | en | one  two | W AH N T UW | train\n"
        "u2 | b.wav | 0.2 | bob | en | two | T UW | test\n",
    )
    assert (ids(corpus, "train"), ids(corpus, "test")) == ({"u1"}, {"u2"})
    cut = next(iter(corpus.cuts("train")))
    assert (text_of(cut), phones_of(cut), speaker_of(cut)) == ("one two", "W AH N T UW", "ann")
    assert (cut.num_samples, cut.sampling_rate, cut.num_channels) == (1_600, 16_000, 1)
    assert cut.supervisions[0].language == "en"
    assert corpus.info.fields == ["phones", "speaker", "text"]
    assert (corpus.info.languages, corpus.info.phones_from) == (["en"], "manifest")


def test_a_name_and_a_licence_may_be_given_and_the_folder_names_the_rest(folder: Path) -> None:
    (folder / "m.tsv").write_text("id\tpath\nu\ta.wav\n", encoding="utf-8")
    given = prepare_path(
        "table", folder / "m.tsv", folder / "one", Request(name="mine", licence="CC0")
    ).info
    assert (given.name, given.licence, given.synthetic) == ("mine", "CC0", False)
    plain = prepare_path("table", folder / "m.tsv", folder / "two").info
    assert (plain.name, plain.licence, plain.synthetic) == (folder.name, "unknown", False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "manifest.tsv: no column 'id'"),
        ("id | file\nu | a.wav\n", "manifest.tsv: no column 'path'"),
        ("idd | path\nu | a.wav\n", "no column 'id'; did you mean idd?"),
        ("id | path\n", "manifest.tsv: no utterance below its header"),
        ("id | path\n\n\n", "manifest.tsv: no utterance below its header"),
        (
            "id | path\nu | a.wav\nv | b.wav\nu | b.wav\n",
            "1 ids stand more than once, the first is 'u'",
        ),
        ("id | path\n | a.wav\n", "line 2: utterance '' has an empty id"),
        ("id | path\nu | \n", "line 2: utterance 'u' has an empty path"),
        (
            "id | path | text\nu | a.wav | one\nv | b.wav |  \n",
            "utterance 'v' has no text (line 3; 1 of 2 rows have a gap)",
        ),
        (
            "id | path | speaker\nu | a.wav | \n",
            "utterance 'u' has no speaker (line 2; 1 of 1 rows have a gap); fill it in, or leave",
        ),
        (
            "id | path | text\nu | a.wav | one\nv | b.wav |  \n",
            "1 of 2 rows have a gap); fill it in, write <silence> as the text of an",
        ),
        (
            "id | path | text | phones\nu | a.wav | <silence> | AA\n",
            "line 2: utterance 'u' has <silence> beside a text or phones; expected <silence> in",
        ),
        ('"id" | "path"\n"u" | "a.wav"\n', 'its header is quoted ("id"); expected cells without'),
        ('id | path\n"u" | "a.wav"\n', 'line 2: its cells are quoted ("a.wav"); expected cells'),
        ("id | path | text\nu | a.wav\n", "line 2: 3 columns expected"),
        ("id | path\n\nu | a.wav | x\n", "line 3: 2 columns expected"),
        ("id | path\nu | gone.wav\n", "gone.wav; is this half"),
        ("id | path\nu | gone.wav\n", "1 of its 1 audio files are missing, the first is "),
        ("id | path | duration_s\nu | gone.wav | 1\n", "gone.wav; is this half"),
        ("id | path\nu | manifest.tsv\n", "manifest.tsv: unreadable audio"),
        ("id | path\nu | a.wav\nv | garbage.wav\n", "utterance 'v': "),
        ("id | path | duration_s\nu | a.wav | 0.3\n", "'u' lasts 0.10 s, not 0.30 s as stated"),
        (
            "id | path | duration_s\nu | a.wav | nan\n",
            "utterance 'u' has duration_s 'nan', not a number",
        ),
        ("id | path | duration_s\nu | a.wav | long\n", "'u' has duration_s 'long', not a number"),
        ("id | path | split\nu | a.wav | ../train\n", "line 2: '../train' cannot name a split"),
        ("id | path | sid_split\nu | a.wav | a b\n", "line 2: 'a b' cannot name a split"),
        ("id | path | text\nü | a.wav | x\n".encode("latin-1"), "manifest.tsv: not UTF-8 (byte "),
    ],
)
def test_a_bad_table_is_an_error_that_names_its_fault_and_writes_nothing(
    folder: Path, text: str | bytes, message: str
) -> None:
    (folder / "garbage.wav").write_bytes(b"no audio here")
    with pytest.raises(CorpusError) as caught:
        table(folder, text)
    assert message in str(caught.value)
    assert not (folder / "out").exists()


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"gone\.tsv: no such manifest"):
        prepare_path("table", tmp_path / "gone.tsv", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_duration_may_be_misstated_by_a_tenth_of_a_second(folder: Path) -> None:
    assert ids(table(folder, "id | path | duration_s\nu | a.wav | 0.19\n"), "train") == {"u"}


def test_a_byte_order_mark_and_crlf_change_nothing(folder: Path) -> None:
    text = "id\tpath\tspeaker\ttext\nu\ta.wav\tann\tone\nv\tb.wav\tbob\ttwo\n"
    plain = table(folder, text, "plain")
    windows = table(folder, b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(), "windows")
    assert windows.info == plain.info
    assert [text_of(cut) for cut in windows.cuts("train")] == [
        text_of(cut) for cut in plain.cuts("train")
    ]


def test_spaces_and_letters_beyond_ascii_are_welcome_everywhere(tmp_path: Path) -> None:
    sound(tmp_path / "mes données" / "été 1.wav")
    corpus = table(
        tmp_path,
        "id | path | speaker | text\nu é | mes données/été 1.wav | Zoë | ça va\u2028bien\n",
        "sortie été",
    )
    cut = next(iter(corpus.cuts("train")))
    assert (cut.id, speaker_of(cut), text_of(cut)) == ("u é", "Zoë", "ça va bien")
    assert len(audio.read(cut)) == 1_600


def test_quotes_are_letters_like_any_other(folder: Path) -> None:
    corpus = table(folder, 'id | path | text\nu | a.wav | "so it goes\nv | b.wav | he said "no"\n')
    assert sorted(text_of(cut) for cut in corpus.cuts("train")) == ['"so it goes', 'he said "no"']


def test_columns_of_other_kinds_are_left_alone_and_may_be_empty(folder: Path) -> None:
    corpus = table(folder, "age | id | note | path\n | u |  | a.wav\n7 | v | x | b.wav\n")
    assert ids(corpus, "train") == {"u", "v"}
    assert corpus.info.fields == []


def test_a_file_of_two_channels_at_another_rate_keeps_its_own_numbers_on_disk(
    tmp_path: Path,
) -> None:
    soundfile.write(tmp_path / "s.wav", np.zeros((4_410, 2)), 44_100)
    cut = next(iter(table(tmp_path, "id | path | speaker\nu | s.wav | ann\n").cuts("train")))
    assert (cut.num_samples, cut.sampling_rate, cut.num_channels) == (4_410, 44_100, 2)
    assert len(audio.read(cut)) == 1_600


@pytest.mark.parametrize("text", ["id,path\nu,a.wav\n", "id, path, text\nu, a.wav, one\n"])
def test_a_table_of_commas_is_told_to_use_tabs(folder: Path, text: str) -> None:
    with pytest.raises(
        CorpusError, match="no column 'id'; its columns are separated by tabs, not commas"
    ):
        table(folder, text)


def test_a_tab_inside_a_text_and_utf_16_are_named(folder: Path) -> None:
    with pytest.raises(
        CorpusError, match=r"line 2: 3 columns expected.*, found 4; is there a tab inside a text\?"
    ):
        table(folder, "id | path | text\nu | a.wav | one | two\n")
    with pytest.raises(CorpusError, match=r"not UTF-8 \(byte 0\)"):
        table(folder, "id\tpath\nu\ta.wav\n".encode("utf-16"))
    with pytest.raises(CorpusError, match=r"zero bytes: UTF-16\?"):
        table(folder, "id\tpath\nu\ta.wav\n".encode("utf-16-le"))


def test_a_column_that_is_there_twice_is_refused_and_one_that_is_not_read_is_named(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(CorpusError, match="column 'text' is there twice; leave one out"):
        table(folder, "id | path | text | text\nu | a.wav | one | two\n")
    with caplog.at_level("INFO", logger="mt4ssl_bench"):
        table(folder, "id | path | Text | speakers\t\t\nu | a.wav | one | ann\t\t\n")
    assert (
        "columns that are not read: Text, speakers; --label Text reads one as a label\n"
        in caplog.text
    )


def test_relative_absolute_and_linked_paths_may_be_mixed(tmp_path: Path) -> None:
    sound(tmp_path / "far away" / "é 1.wav")
    sound(tmp_path / "here" / "b.wav", 0.2)
    (tmp_path / "here" / "link.wav").symlink_to(tmp_path / "far away" / "é 1.wav")
    (tmp_path / "here" / "folder").symlink_to(tmp_path / "far away")
    rows = f"u | b.wav\nv | {tmp_path / 'far away' / 'é 1.wav'}\nw | link.wav\nx | folder/é 1.wav\ny | ../here/b.wav\n"
    corpus = table(tmp_path / "here", "id | path\n" + rows)
    cuts = [cut for split in corpus.info.splits for cut in corpus.cuts(split)]
    assert {cut.id: len(audio.read(cut)) for cut in cuts} == {
        "u": 3_200,
        "y": 3_200,
    } | dict.fromkeys("vwx", 1_600)


def test_a_lexicon_of_another_language_gives_its_phones(folder: Path) -> None:
    (folder / "nl.txt").write_text("TWEE t w e:\n", encoding="utf-8")
    (folder / "m.tsv").write_text(
        "id\tpath\tlanguage\ttext\nu\ta.wav\tnl\ttwee\n", encoding="utf-8"
    )
    corpus = prepare_path(
        "table", folder / "m.tsv", folder / "out", Request(lexicon=[folder / "nl.txt"])
    )
    assert phones_of(next(iter(corpus.cuts("train")))) == "t w e:"
    assert corpus.info.phones_from.startswith("nl.txt (")
    other = prepare_path("table", folder / "m.tsv", folder / "other")
    assert other.info.digest != corpus.info.digest


# ---- digests ----

ROWS = [
    "u | a.wav | ann | one | train",
    "v | b.wav | bob | two | train",
    "w | c.wav | ann | six | test",
]


def digest(folder: Path, rows: list[str] = ROWS) -> str:
    shutil.rmtree(folder / "out", ignore_errors=True)
    sound(folder / "c.wav")
    return table(
        folder, "\n".join(["id | path | speaker | text | split", *rows]) + "\n"
    ).info.digest


def test_the_same_content_gives_the_same_digest_in_any_order_and_place(folder: Path) -> None:
    first = digest(folder)
    assert len(first) == 16
    assert digest(folder, ROWS[::-1]) == first
    moved = shutil.copytree(
        folder, folder.with_name("elsewhere"), ignore=shutil.ignore_patterns("out")
    )
    (moved / "a.wav").rename(moved / "z.wav")
    assert digest(moved, [ROWS[0].replace("a.wav", "z.wav"), *ROWS[1:]]) == first


@pytest.mark.parametrize(
    ("old", "new"), [("six", "sex"), ("bob", "rob"), ("| test", "| valid"), ("w |", "x |")]
)
def test_another_text_speaker_split_or_id_gives_another_digest(
    folder: Path, old: str, new: str
) -> None:
    assert digest(folder, [row.replace(old, new) for row in ROWS]) != digest(folder)


def test_one_byte_of_audio_gives_another_digest(folder: Path) -> None:
    first = digest(folder)
    content = bytearray((folder / "b.wav").read_bytes())
    content[-1] ^= 1
    (folder / "b.wav").write_bytes(content)
    assert digest(folder) != first


def test_preparing_the_same_again_gives_the_same_corpus_untouched(folder: Path) -> None:
    text = "id | path\nu | a.wav\nv | b.wav\n"
    first = table(folder, text)
    written = (folder / "out" / "corpus.json").stat().st_mtime_ns
    again = table(folder, text)
    assert again.info == first.info
    assert (folder / "out" / "corpus.json").stat().st_mtime_ns == written


def test_another_corpus_in_the_same_place_is_refused_and_the_first_stays(folder: Path) -> None:
    first = table(folder, "id | path\nu | a.wav\n")
    with pytest.raises(
        CorpusError,
        match=rf"holds another corpus \(.*, {first.info.digest}\); choose another --out",
    ):
        table(folder, "id | path\nu | b.wav\n")
    assert Corpus.open(folder / "out").info == first.info


def test_a_corpus_holds_its_splits_and_corpus_json_and_nothing_else(folder: Path) -> None:
    corpus = table(folder, "id | path | split\nu | a.wav | train\nv | b.wav | dev-1.a\n")
    assert sorted(file.name for file in corpus.root.iterdir()) == [
        "corpus.json",
        "dev-1.a.index.npz",
        "dev-1.a.jsonl.gz",
        "train.index.npz",
        "train.jsonl.gz",
    ]


# ---- splits ----


def crowd(
    folder: Path, people: int, each: int, split: Callable[[int, int], str] | None = None
) -> Corpus:
    """Prepare `people` x `each` utterances s00-0, ... with a split by (speaker, utterance), or
    without any.
    """
    rows = ["id | path | speaker" + (" | split" if split else "")]
    for p in range(people):
        for u in range(each):
            sound(folder / f"{p}-{u}.wav", 0.01)
            rows.append(
                f"s{p:02}-{u} | {p}-{u}.wav | s{p:02}" + (f" | {split(p, u)}" if split else "")
            )
    return table(folder, "\n".join(rows) + "\n")


def test_a_corpus_whose_audio_was_moved_is_not_taken_for_unchanged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = "id | path | split\nu | u.wav | train\n"
    (tmp_path / "one").mkdir()
    sound(tmp_path / "one" / "u.wav")
    table(tmp_path / "one", text, "../out")
    with caplog.at_level(logging.INFO, logger="mt4ssl_bench"):
        table(tmp_path / "one", text, "../out")
        assert caplog.messages[-1].endswith("already prepared as 'one', unchanged")
        other = Request(roots={}, name="other")
        prepare_path("table", tmp_path / "one" / "manifest.tsv", tmp_path / "out", other)
    assert "unchanged; for the name 'other', choose another --out" in caplog.messages[-1]
    (tmp_path / "one").rename(tmp_path / "two")
    with pytest.raises(CorpusError, match=r"one/u\.wav is missing\); delete the folder, or choose"):
        table(tmp_path / "two", text, "../out")


def test_without_splits_ten_speakers_are_dealt_whole_over_train_valid_and_test(
    tmp_path: Path,
) -> None:
    corpus = crowd(tmp_path, people=10, each=3)
    heard = {name: speakers(corpus, name) for name in ("train", "valid", "test")}
    assert {name: len(found) for name, found in heard.items()} == {
        "train": 8,
        "valid": 1,
        "test": 1,
    }
    assert len(set.union(*heard.values())) == 10
    assert corpus.info.splits["train"].utterances == 24


def test_without_splits_fewer_speakers_are_dealt_by_utterance(tmp_path: Path) -> None:
    corpus = crowd(tmp_path, people=4, each=5)
    sizes = {name: corpus.info.splits[name].utterances for name in ("train", "valid", "test")}
    assert sizes == {"train": 16, "valid": 2, "test": 2}
    members = [ids(corpus, name) for name in ("train", "valid", "test")]
    assert len(set.union(*members)) == 20


def test_splits_made_here_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    for name in "abcdefghijkl":
        sound(tmp_path / f"{name}.wav", 0.01)
    rows = [f"{name} | {name}.wav" for name in "abcdefghijkl"]
    one = table(tmp_path, "\n".join(["id | path", *rows]) + "\n", "one")
    two = table(tmp_path, "\n".join(["id | path", *rows[::-1]]) + "\n", "two")
    assert one.info.digest == two.info.digest
    assert [ids(one, s) for s in ("train", "valid", "test")] == [
        ids(two, s) for s in ("train", "valid", "test")
    ]


@pytest.mark.parametrize(("count", "sizes"), [(1, (1, 0, 0)), (2, (2, 0, 0)), (3, (1, 1, 1))])
def test_of_very_few_utterances_train_is_served_first(
    tmp_path: Path, count: int, sizes: tuple[int, ...]
) -> None:
    rows = [f"{n} | {sound(tmp_path / f'{n}.wav').name}" for n in range(count)]
    corpus = table(tmp_path, "\n".join(["id | path", *rows]) + "\n")
    assert tuple(len(ids(corpus, s)) for s in ("train", "valid", "test")) == sizes


def test_where_the_plain_splits_part_the_speakers_speaker_splits_are_added_that_do_not(
    tmp_path: Path,
) -> None:
    corpus = crowd(tmp_path, 3, 7, lambda p, _: ("train", "valid", "test")[p])
    assert sorted(corpus.info.splits) == [
        "sid_test",
        "sid_train",
        "sid_valid",
        "test",
        "train",
        "valid",
    ]
    for name in ("sid_train", "sid_valid", "sid_test"):
        assert speakers(corpus, name) == {"s00", "s01", "s02"}
    # 7 utterances of each speaker: 0.15 * 7 rounds to 1
    sizes = {
        name: corpus.info.splits[name].utterances for name in ("sid_train", "sid_valid", "sid_test")
    }
    assert sizes == {"sid_train": 15, "sid_valid": 3, "sid_test": 3}
    dealt = [ids(corpus, name) for name in sizes]
    assert len(set.union(*dealt)) == 21


def test_speakers_of_two_utterances_each_have_no_speaker_splits(tmp_path: Path) -> None:
    corpus = crowd(tmp_path, 3, 2, lambda p, _: ("train", "valid", "test")[p])
    assert sorted(corpus.info.splits) == ["test", "train", "valid"]


def test_where_test_speakers_are_heard_in_training_no_speaker_splits_are_added(
    tmp_path: Path,
) -> None:
    corpus = crowd(tmp_path, 2, 3, lambda _, u: ("train", "valid", "test")[u])
    assert sorted(corpus.info.splits) == ["test", "train", "valid"]


def test_speaker_splits_of_the_table_are_taken_as_they_stand(folder: Path) -> None:
    corpus = table(
        folder,
        "id | path | speaker | split | sid_split\nu | a.wav | ann | train | test\nv | b.wav | bob "
        "| test | train\n",
    )
    assert {name: ids(corpus, name) for name in sorted(corpus.info.splits)} == {
        "sid_test": {"u"},
        "sid_train": {"v"},
        "test": {"v"},
        "train": {"u"},
    }


# ---- phones ----


def test_english_texts_get_cmudicts_phones_and_unknown_words_are_reported(
    folder: Path, log: pytest.LogCaptureFixture
) -> None:
    corpus = table(
        folder, "id | path | text\nu | a.wav | Hello blorf\nv | b.wav | BLORF two zzyx\n"
    )
    assert {cut.id: phones_of(cut) for cut in corpus.cuts("train")} == {
        "u": "HH AH0 L OW1 SPN",
        "v": "SPN T UW1 SPN",
    }
    assert corpus.info.phones_from == "cmudict, first pronunciation"
    assert corpus.info.fields == ["phones", "text"]
    assert corpus.info.notes["lexicon"] == {"words": 5, "found": 2, "guessed": 0, "missing": 3}
    assert corpus.info.notes["out_of_vocabulary"] == {"BLORF": 2, "ZZYX": 1}
    assert log.messages[0] == "2 words outside the lexicon became SPN: BLORF, ZZYX"


def test_texts_of_other_languages_get_no_english_phones(folder: Path) -> None:
    corpus = table(
        folder, "id | path | language | text\nu | a.wav | en | two\nv | b.wav | nl | twee\n"
    )
    assert corpus.info.fields == ["text"]
    assert (corpus.info.languages, corpus.info.phones_from) == (["en", "nl"], "")
    assert {phones_of(cut) for cut in corpus.cuts("train")} == {""}


def test_phones_of_the_table_are_kept(folder: Path) -> None:
    corpus = table(folder, "id | path | text | phones\nu | a.wav | hello | HH  EH L OW\n")
    assert [phones_of(cut) for cut in corpus.cuts("train")] == ["HH EH L OW"]


# ---- folders ----


def test_a_folder_gives_ids_from_its_sub_folders_and_keeps_some_for_validation(
    tmp_path: Path,
) -> None:
    for name in ("x/a.wav", "x/deep/b.flac", "c.WAV", "x y/d.e.ogg"):
        sound(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("not audio", encoding="utf-8")
    corpus = prepare_path("folder", tmp_path / "in", tmp_path / "out")
    assert ids(corpus, "train") | ids(corpus, "valid") == {"x-a", "x-deep-b", "c", "x y-d.e"}
    assert {name: split.utterances for name, split in corpus.info.splits.items()} == {
        "train": 3,
        "valid": 1,
    }
    assert (corpus.info.name, corpus.info.fields, corpus.info.notes) == (
        "in",
        [],
        {"source": "folder", "valid": "held out of train here"},
    )


def test_linked_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    sound(tmp_path / "disk" / "a.wav")
    sound(tmp_path / "in" / "b.wav")
    (tmp_path / "in" / "more").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "loop").symlink_to(tmp_path / "in")
    corpus = prepare_path("folder", tmp_path / "in", tmp_path / "out")
    assert ids(corpus, "train") | ids(corpus, "valid") == {"more-a", "b"}


def test_a_hundred_files_keep_two_for_validation(tmp_path: Path) -> None:
    for n in range(100):
        sound(tmp_path / "in" / f"{n}.wav", 0.01)
    splits = prepare_path("folder", tmp_path / "in", tmp_path / "out").info.splits
    assert (splits["train"].utterances, splits["valid"].utterances) == (98, 2)


def test_unreadable_files_are_left_out_named_and_counted(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    for name in ("a.wav", "b.wav", "c.wav"):
        sound(tmp_path / "in" / name)
    (tmp_path / "in" / "broken.wav").write_bytes(b"RIFF")
    soundfile.write(tmp_path / "in" / "empty.wav", np.zeros(0), RATE)
    corpus = prepare_path("folder", tmp_path / "in", tmp_path / "out")
    assert ids(corpus, "train") | ids(corpus, "valid") == {"a", "b", "c"}
    assert corpus.info.notes["unreadable"] == 2
    first, second = corpus.info.notes["unreadable_examples"]
    broken, empty = tmp_path / "in" / "broken.wav", tmp_path / "in" / "empty.wav"
    assert first.startswith(f"'broken' ({broken}: unreadable audio")
    assert second == f"'empty' ({empty}: holds no samples)"
    assert log.messages[0].startswith(f"left out: utterance 'broken': {broken}: unreadable audio")
    assert log.messages[1:] == [f"left out: utterance 'empty': {empty}: holds no samples"]


def test_audio_that_libsndfile_does_not_read_is_counted(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    sound(tmp_path / "in" / "a.wav")
    soundfile.write(tmp_path / "in" / "b.w64", np.zeros(RATE), RATE)
    (tmp_path / "in" / "a.m4a").write_bytes(b"somebody's phone")
    (tmp_path / "in" / "notes.txt").write_text("no audio", encoding="utf-8")
    corpus = prepare_path("folder", tmp_path / "in", tmp_path / "out")
    assert ids(corpus, "train") | ids(corpus, "valid") == {"a", "b"}
    assert corpus.info.notes["unreadable_examples"] == [
        f"'a.m4a' ('{tmp_path / 'in' / 'a.m4a'}': libsndfile reads no .m4a)"
    ]
    assert any("libsndfile reads no .m4a" in line for line in log.messages)


def test_a_name_that_is_not_utf_8_is_one_line(tmp_path: Path) -> None:
    sound(tmp_path / "in" / "a.wav")
    shutil.copy(
        os.fsencode(tmp_path / "in" / "a.wav"), os.fsencode(tmp_path / "in") + b"/stra\xdfe.wav"
    )
    corpus = prepare_path("folder", tmp_path / "in", tmp_path / "out")
    assert corpus.info.notes["unreadable"] == 1
    assert corpus.info.notes["unreadable_examples"][0].endswith(
        "stra\\udcdfe.wav': its name is not UTF-8; rename it)"
    )


def test_a_folder_that_gives_nothing_is_an_error_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(CorpusError, match=r"gone: no such folder"):
        prepare_path("folder", tmp_path / "gone", tmp_path / "out")
    with pytest.raises(CorpusError, match=r"in: no audio file below it; expected \.aif, "):
        prepare_path("folder", tmp_path / "in", tmp_path / "out")
    (tmp_path / "in" / "broken.wav").write_bytes(b"RIFF")
    with pytest.raises(
        CorpusError,
        match=r"no utterance can be used: unreadable files, the first is 'broken' \(.*broken\.wav",
    ):
        prepare_path("folder", tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- moving ----


def test_a_corpus_that_holds_its_audio_can_be_moved(tmp_path: Path) -> None:
    sound(tmp_path / "here" / "audio" / "a.wav")
    (tmp_path / "here" / "manifest.tsv").write_text("id\tpath\nu\taudio/a.wav\n", encoding="utf-8")
    before = prepare_path("table", tmp_path / "here" / "manifest.tsv", tmp_path / "here")
    samples = audio.read(next(iter(before.cuts("train"))))
    (tmp_path / "here").rename(tmp_path / "there")
    after = Corpus.open(tmp_path / "there")
    assert np.array_equal(audio.read(next(iter(after.cuts("train")))), samples)
    assert len(samples) == 1_600


def test_a_corpus_whose_audio_lies_elsewhere_can_be_moved_without_it(folder: Path) -> None:
    table(folder, "id | path\nu | a.wav\n").root.rename(folder / "moved")
    assert len(audio.read(next(iter(Corpus.open(folder / "moved").cuts("train"))))) == 1_600


def test_files_whose_names_would_give_one_id_keep_their_paths(tmp_path: Path) -> None:
    for place in ("one.wav", "one.flac", "a/b.wav", "a-b.wav", "two.wav"):
        sound(tmp_path / "in" / place)
    corpus = prepare_path("folder", tmp_path / "in", tmp_path / "out")
    found = {cut.id for split in corpus.info.splits for cut in corpus.cuts(split)}
    assert found == {"one.wav", "one.flac", "a/b.wav", "a-b.wav", "two"}


def test_partial_leaves_out_rows_with_empty_cells_and_counts_them(folder: Path) -> None:
    (folder / "m.tsv").write_text(
        "id\tpath\ttext\tsplit\nu\ta.wav\tONE\ttrain\nv\tb.wav\t\ttrain\nw\tgone.wav\tTWO\ttrain\n"
    )
    corpus = prepare_path("table", folder / "m.tsv", folder / "out", Request(partial=True))
    assert [cut.id for cut in corpus.cuts("train")] == ["u"]
    assert corpus.info.fields == ["phones", "text"]
    assert corpus.info.notes["no_text_examples"] == ["'v' (line 3)"]
    assert corpus.info.notes["missing"] == 1


def test_silence_is_marked_in_a_table_and_differs_from_audio_without_a_text(folder: Path) -> None:
    (folder / "m.tsv").write_text(
        "id\tpath\ttext\tsplit\nu\ta.wav\tONE\ttrain\nv\tb.wav\t<silence>\ttest\n"
    )
    corpus = prepare_path("table", folder / "m.tsv", folder / "out")
    (cut,) = corpus.cuts("test")
    assert (text_of(cut), phones_of(cut), is_silent(cut)) == ("", "", True)
    assert corpus.info.fields == ["phones", "text"]
