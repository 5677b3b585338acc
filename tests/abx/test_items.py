"""Tokens from item files and alignments: exact times, and a count of everything that is dropped."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt4ssl_bench.abx.items import (
    HEADER,
    Token,
    near_lengths,
    phone_tokens,
    plain_items,
    read_items,
    single_words,
    speaker_tokens,
    word_tokens,
    write_items,
)
from mt4ssl_bench.data.alignment import Alignment, read_alignment
from mt4ssl_bench.errors import CorpusError

CASE = Path(__file__).parent.parent / "fixtures" / "abx_case"
PHONES = [
    (0.0, 0.2, "SIL"),
    (0.2, 0.29, "HH_B"),
    (0.29, 0.36, "AH0_I"),
    (0.36, 0.43, "L_I"),
    (0.43, 0.55, "OW1_E"),
    (0.55, 0.7, "sil"),
]


def write_item(folder: Path, *lines: str) -> Path:
    file = folder / "x.item"
    file.write_text("\n".join([HEADER, *lines]) + "\n", encoding="utf-8")
    return file


def test_an_item_file_is_read_and_written_with_exact_times(tmp_path: Path) -> None:
    tokens = read_items(CASE / "case.item")
    assert len(tokens) == 64
    assert tokens[0] == Token("s2-utt0", 1_402_500, 1_582_500, "IH", "K", "P", "s2")
    write_items(tmp_path / "again.item", tokens)
    assert read_items(tmp_path / "again.item") == tokens
    assert (tmp_path / "again.item").read_text().splitlines()[1:3] == [
        "s2-utt0 1.4025 1.5825 IH K P s2",
        "s1-utt1 1.2000 1.2600 EH B G s1",
    ]


@given(st.integers(0, 10**10), st.integers(1, 10**7))
def test_times_survive_writing_and_reading(
    tmp_path_factory: pytest.TempPathFactory, onset: int, duration: int
) -> None:
    file = tmp_path_factory.getbasetemp() / "times.item"
    token = Token("u", onset, onset + duration, "A", "B", "C", "s")
    write_items(file, [token])
    assert read_items(file) == [token]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("u 0.1 0.2 A B C", "line 2: 6 columns; expected 7"),
        ("u 0.1 0.2 A B C s more", "line 2: 8 columns; expected 7"),
        ("u 0,1 0.2 A B C s", "line 2: '0,1' is no time; expected seconds, such as 0.2925"),
        ("u nan 0.2 A B C s", "'nan' is no time"),
        ("u 1_0 20 A B C s", "'1_0' is no time"),
        ("u -0.1 0.2 A B C s", "'-0.1' is no time"),
        ("u 0.2 0.2 A B C s", "onset 0.2, offset 0.2; expected onset < offset"),
        ("", "no token"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        read_items(write_item(tmp_path, line))


def test_a_file_without_header_or_of_other_bytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.item").write_text("u 0.1 0.2 A B C s\n")
    with pytest.raises(CorpusError, match="line 1: .*expected the header '#file onset"):
        read_items(tmp_path / "x.item")
    (tmp_path / "x.item").write_bytes(b"#file\xff\n")
    with pytest.raises(CorpusError, match="cannot be read"):
        read_items(tmp_path / "x.item")
    with pytest.raises(CorpusError, match="cannot be read"):
        read_items(tmp_path / "absent.item")


def test_a_label_that_an_item_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    for label in ("two words", ""):
        token = Token("u", 0, 1, label, "-", "-", "s")
        with pytest.raises(CorpusError, match="labels and ids without whitespace"):
            write_items(tmp_path / "x.item", [token])


def test_white_space_in_names_is_written_as_underscores_where_names_stay_distinct(
    tmp_path: Path,
) -> None:
    token = Token("a b", 0, 100_000, "new  york", "-", "-", "Anna K.")
    (tmp_path / "x.item").write_text(plain_items([token]))
    assert read_items(tmp_path / "x.item") == [
        Token("a_b", 0, 100_000, "new_york", "-", "-", "Anna_K.")
    ]
    for others in ({"group": "Anna_K."}, {"utterance": "a_b"}, {"category": " "}):
        (name,) = others
        with pytest.raises(CorpusError, match=f"no item file: {name} '"):
            plain_items([token, replace(token, **others)])  # type: ignore[arg-type]


@pytest.mark.parametrize("label", ["<p:>", "#", "_", "silence", "SILENCE", "<SIL>", "<usb>"])
def test_pauses_of_other_aligners_are_silences(label: str) -> None:
    labels = ["a", "b", "c", label, "d", "e", "f"]
    turns = [(0.1 * n, 0.1 * (n + 1), each) for n, each in enumerate(labels)]
    tokens, dropped = phone_tokens(Alignment({"u": turns}), {"u": "s"})
    assert [t.category for t in tokens] == ["b", "e"]
    assert dropped.counts["silences"] == 1


def test_triphones_span_the_neighbors_and_phonemes_do_not() -> None:
    alignment = Alignment({"u": PHONES})
    triphones, dropped = phone_tokens(alignment, {"u": "s"})
    assert triphones == [
        Token("u", 200_000, 430_000, "AH", "HH", "L", "s"),
        Token("u", 290_000, 550_000, "L", "AH", "OW", "s"),
    ]
    assert dropped.counts == {
        "silences": 2,
        "phones beside silence or at the edge of an utterance": 2,
    }
    phonemes, _ = phone_tokens(alignment, {"u": "s"}, "phoneme")
    assert [(t.onset, t.offset) for t in phonemes] == [(290_000, 360_000), (360_000, 430_000)]


def test_the_first_and_last_phones_of_an_utterance_have_no_context() -> None:
    tokens, dropped = phone_tokens(Alignment({"u": PHONES[1:5]}), {"u": "s"})
    assert [t.category for t in tokens] == ["AH", "L"]
    assert sum(dropped.counts.values()) == 2


def test_everything_that_is_dropped_is_counted_by_reason() -> None:
    def three(gap: float, duration: float = 0.1) -> list[tuple[float, float, str]]:
        middle = 0.1 + gap
        return [(0.0, 0.1, "A"), (middle, middle + duration, "B"), (middle + duration, 1.0, "C")]

    alignment = Alignment(
        {
            "gap": three(0.011),
            "near": three(0.010),
            "overlap": three(-0.011),
            "long": [(0.0, 0.1, "A"), (0.1, 0.2, "B"), (0.2, 1.001, "C")],
            "unknown": three(0),
            "nobody": three(0),
        }
    )
    speakers = dict.fromkeys(("gap", "near", "overlap", "long"), "s") | {"nobody": ""}
    tokens, dropped = phone_tokens(alignment, speakers)
    assert [t.utterance for t in tokens] == ["near"]
    assert dropped.counts == {
        "phones with a gap before or after them": 1,
        "phones that overlap a neighbor": 1,
        "tokens longer than 1 s": 1,
        "utterances of the alignment that are not in the corpus": 1,
        "utterances without a speaker": 1,
        "phones beside silence or at the edge of an utterance": 8,
    }
    assert "1 phones that overlap a neighbor, the first is 'B' at 0.089 s" in str(dropped)


def test_a_ctm_gives_exact_times_and_orders_its_lines(tmp_path: Path) -> None:
    (tmp_path / "x.ctm").write_text("u 1 0.36 0.07 L\nu 1 0.29 0.07 AH0\nu 1 0.2 0.09 HH\n")
    tokens, _ = phone_tokens(read_alignment(tmp_path / "x.ctm"), {"u": "s"})
    assert tokens == [Token("u", 200_000, 430_000, "AH", "HH", "L", "s")]


def test_an_utterance_is_found_by_the_short_name_of_its_textgrid() -> None:
    alignment = Alignment({"folder-u": PHONES}, {"folder-u": "u"})
    tokens, dropped = phone_tokens(alignment, {"u": "s"})
    assert {t.utterance for t in tokens} == {"u"}
    assert "utterances of the alignment that are not in the corpus" not in dropped.counts


def test_stress_of_other_phone_sets_stays() -> None:
    labels = [(0.0, 0.1, "t"), (0.1, 0.2, "a1"), (0.2, 0.3, "n")]
    tokens, _ = phone_tokens(Alignment({"u": labels}), {"u": "s"})
    assert tokens[0].category == "a1"


def test_words_have_no_context_and_a_duration_limit() -> None:
    words = Alignment({"u": [(0.0, 0.1, "a"), (0.1, 0.5, "word"), (0.5, 0.9, "<eps>")]})
    tokens, dropped = word_tokens(words, {"u": "s"})
    assert tokens == [Token("u", 100_000, 500_000, "word", "-", "-", "s")]
    assert dropped.counts == {"tokens shorter than 0.15 s": 1, "silences": 1}
    tokens, _ = word_tokens(Alignment({"u": [(0.0, 0.4, "SILENCE")]}), {"u": "s"})
    assert [t.category for t in tokens] == ["SILENCE"]


def test_an_utterance_of_one_word_is_a_token() -> None:
    tokens, _ = word_tokens(single_words({"u": "seven"}, {"u": 0.4375}), {"u": "s"})
    assert tokens == [Token("u", 0, 437_500, "seven", "-", "-", "s")]


def test_near_lengths_compare_mean_durations() -> None:
    def token(word: str, duration: int) -> Token:
        return Token("u", 0, duration, word, "-", "-", "s")

    tokens = [token("a", 100), token("a", 300), token("b", 300), token("c", 301)]
    expected = {("a", "b"), ("b", "a"), ("b", "c"), ("c", "b")}
    assert near_lengths(tokens) == expected


def test_speaker_tokens_exchange_speaker_and_phone() -> None:
    token = Token("u", 0, 1, "AH", "HH", "L", "s")
    assert speaker_tokens([token]) == [Token("u", 0, 1, "s", "HH", "L", "AH")]
