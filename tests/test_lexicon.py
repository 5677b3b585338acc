"""Words to phones: CMUdict's first pronunciation, and SPN, counted, for what it lacks."""

from collections import Counter

from mt4ssl_bench.lexicon import UNKNOWN, cmudict, pronounce


def test_cmudict_gives_the_first_pronunciation_of_upper_case_words_with_stress() -> None:
    lexicon = cmudict()
    assert lexicon["HELLO"] == "HH AH0 L OW1"
    assert lexicon["READ"] == "R EH1 D"  # the second one, R IY1 D, is not taken
    assert "hello" not in lexicon
    assert len(lexicon) > 120_000


def test_a_text_becomes_the_phones_of_its_words_in_order() -> None:
    missing: Counter[str] = Counter()
    assert pronounce("one Two", {"ONE": "W AH1 N", "TWO": "T UW1"}, missing) == "W AH1 N T UW1"
    assert missing == {}


def test_a_word_outside_the_lexicon_becomes_one_spn_and_is_counted_in_upper_case() -> None:
    missing: Counter[str] = Counter()
    assert pronounce("one blorf one BLORF zu", {"ONE": "W AH1 N"}, missing) == (
        f"W AH1 N {UNKNOWN} W AH1 N {UNKNOWN} {UNKNOWN}"
    )
    assert missing == {"BLORF": 2, "ZU": 1}


def test_words_may_be_parted_by_any_white_space() -> None:
    assert pronounce("  a\t b ", {"A": "AH0", "B": "B IY1"}, Counter()) == "AH0 B IY1"


def test_an_apostrophe_belongs_to_its_word() -> None:
    assert pronounce("don't", cmudict(), Counter()) == "D OW1 N T"
