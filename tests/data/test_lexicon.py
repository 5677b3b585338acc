"""Words to phones: CMUdict's first pronunciation, and SPN, counted, for what it lacks."""

import hashlib
from collections import Counter
from pathlib import Path

import pytest

from mt4ssl_bench.corpora.phones import Coverage, add_phones
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.data.lexicon import UNKNOWN, pronounce, pronunciations
from mt4ssl_bench.data.lexicon_files import cmudict, open_lexicon
from mt4ssl_bench.errors import CorpusError


def test_cmudict_gives_every_pronunciation_of_upper_case_words_with_stress() -> None:
    lexicon = cmudict()
    assert lexicon["HELLO"] == ("HH AH0 L OW1", "HH EH0 L OW1")
    assert lexicon["READ"] == ("R EH1 D", "R IY1 D")
    assert pronounce("read", lexicon, Counter()) == "R EH1 D", "the first one alone"
    assert pronunciations("read blorf", lexicon, Counter()) == [("R EH1 D", "R IY1 D"), (UNKNOWN,)]
    assert "hello" not in lexicon
    assert len(lexicon) > 120_000


def test_a_text_becomes_the_phones_of_its_words_in_order() -> None:
    missing: Counter[str] = Counter()
    assert (
        pronounce("one Two", {"ONE": ("W AH1 N",), "TWO": ("T UW1",)}, missing) == "W AH1 N T UW1"
    )
    assert missing == {}


def test_a_word_outside_the_lexicon_becomes_one_spn_and_is_counted_in_upper_case() -> None:
    missing: Counter[str] = Counter()
    assert pronounce("one blorf one BLORF zu", {"ONE": ("W AH1 N",)}, missing) == (
        f"W AH1 N {UNKNOWN} W AH1 N {UNKNOWN} {UNKNOWN}"
    )
    assert missing == {"BLORF": 2, "ZU": 1}


def test_words_may_be_parted_by_any_white_space() -> None:
    assert pronounce("  a\t b ", {"A": ("AH0", "EY1"), "B": ("B IY1",)}, Counter()) == "AH0 B IY1"


def test_an_apostrophe_belongs_to_its_word() -> None:
    assert pronounce("don't", cmudict(), Counter()) == "D OW1 N T"


def test_lexicon_files_are_read_as_superb_librispeech_and_cmudict_write_them(
    tmp_path: Path,
) -> None:
    first, second = tmp_path / "words.txt", tmp_path / "more.dict"
    first.write_text("HALLO\tH A L O\nhallo  X\n\nWELT V E L T\n", encoding="utf-8")
    second.write_bytes(
        b"\xef\xbb\xbf;;; a comment\r\nWELT  V E L T\r\nWELT(2)  W E L T\r\n\xc3\x9cBER  Y B 6\r\n"
    )
    lexicon = open_lexicon([first, second])
    assert dict(lexicon.words) == {
        "HALLO": ("H A L O", "X"),
        "WELT": ("V E L T", "W E L T"),
        "ÜBER": ("Y B 6",),
    }
    digests = [hashlib.sha256(file.read_bytes()).hexdigest()[:8] for file in (first, second)]
    assert (
        lexicon.name == f"words.txt ({digests[0]}), more.dict ({digests[1]}), first pronunciation"
    )


def test_probabilities_and_comments_are_no_phones(tmp_path: Path) -> None:
    """Of MFA's dictionaries, Kaldi's lexiconp.txt and cmudict.dict as it lies on GitHub."""
    file = tmp_path / "l.dict"
    file.write_text(
        "hello\t0.99\t0.28\t1.02\t0.99\tHH AH0 L OW1\nHI 1.0 HH AY1\ntiny 1e-05 T AY1\n"
        "aalborg AO1 L B # place, danish\nhao3 0.5 x au 3\n",
        encoding="utf-8",
    )
    assert dict(open_lexicon([file]).words) == {
        "HELLO": ("HH AH0 L OW1",),
        "HI": ("HH AY1",),
        "TINY": ("T AY1",),
        "AALBORG": ("AO1 L B",),
        "HAO3": ("x au 3",),
    }
    file.write_text("a 1 9 f\nb 0.25 1 n\nb 1 b\nc 1 0.99 1.02 1 c\n", encoding="utf-8")
    kaldi = open_lexicon([file])
    assert kaldi.words == {"A": ("9 f",), "B": ("1 n", "b"), "C": ("1 c",)}
    assert kaldi.marked


def test_whole_numbers_are_phones_of_x_sampa(tmp_path: Path) -> None:
    file = tmp_path / "sampa.txt"
    file.write_text("œuf\t9 f\neux\t2\nîn\t1 n\nheureux\t2 R 2\nmer\tm E R\n", encoding="utf-8")
    lexicon = open_lexicon([file])
    assert lexicon.words == {
        "ŒUF": ("9 f",),
        "EUX": ("2",),
        "ÎN": ("1 n",),
        "HEUREUX": ("2 R 2",),
        "MER": ("m E R",),
    }
    assert not lexicon.marked


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"A X\nHALLO 0.5 # H A\n", "line 2: 'HALLO' has no phones; expected WORD PHONE"),
        (b"HALLO\n", "line 1: 'HALLO' has no phones; expected WORD PHONE"),
        (b"", "holds no word"),
        ("ÜBER Y".encode("latin-1"), "not UTF-8"),
        (None, "no such file"),
    ],
)
def test_a_bad_lexicon_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "l.txt").write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        open_lexicon([tmp_path / "l.txt"])


def test_found_and_missing_words_are_counted_and_none_is_guessed() -> None:
    coverage = Coverage()
    rows = [Row(id="u", path=Path("u.wav"), text="two blorf two")]
    assert [row.phones for row in add_phones(rows, open_lexicon(), coverage)] == ["T UW1 SPN T UW1"]
    assert coverage.notes() == {
        "lexicon": {"words": 3, "found": 2, "guessed": 0, "missing": 1},
        "out_of_vocabulary": {"BLORF": 1},
    }


@pytest.mark.parametrize(
    "word", ["DON\u2019T", "don\u02bct", "Don\u2018t", "DON\uff07T", "\uff24ON'T"]
)
def test_a_word_is_looked_up_in_whatever_way_its_characters_are_written(word: str) -> None:
    missing: Counter[str] = Counter()
    assert pronounce(word, cmudict(), missing) == "D OW1 N T"
    assert not missing


def test_lexicon_words_may_have_typographic_apostrophes_and_separate_accents(
    tmp_path: Path,
) -> None:
    file = tmp_path / "words.txt"
    file.write_text("don\u2019t D\ncafe\u0301 K\n", encoding="utf-8")
    lexicon = open_lexicon([file]).words
    assert pronounce("don't caf\u00e9 cafe\u0301", lexicon, Counter()) == "D K K"
