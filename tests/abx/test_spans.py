"""Frames of tokens: the exact rule, Libri-Light's, and what is clipped or dropped."""

import csv
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt4ssl_bench.abx.items import Token, read_items
from mt4ssl_bench.abx.spans import CLIPPED, DOUBLED, Grid, find_frames
from mt4ssl_bench.errors import CorpusError

CASE = Path(__file__).parent.parent / "fixtures" / "abx_case"


def token(onset: int, offset: int, utterance: str = "u") -> Token:
    return Token(utterance, onset, offset, "A", "B", "C", "s")


def test_the_frames_of_the_reference_case() -> None:
    tokens = read_items(CASE / "case.item")
    with (CASE / "frames.csv").open() as file:
        rows = list(csv.DictReader(file))
    num_frames = dict.fromkeys({t.utterance for t in tokens}, 1000)
    exact, libri_light = (find_frames(tokens, num_frames, rule=r) for r in ("exact", "librilight"))
    for i, row in enumerate(rows):
        start, stop, short = (int(row[k]) for k in ("start", "end_exclusive", "librilight_end"))
        assert (exact.starts[i], exact.lengths[i]) == (start, stop - start)
        assert (libri_light.starts[i], libri_light.lengths[i]) == (start, short - start)
    different = [
        r for r in rows if (r["start"], r["end_exclusive"]) != (r["float_start"], r["float_end"])
    ]
    assert different, "the case has a token that floating-point arithmetic cuts wrongly"


@given(
    st.integers(0, 10**8),
    st.integers(1, 10**7),
    st.integers(1, 1000),
    st.none() | st.integers(0, 1000),
)
def test_a_frame_is_in_a_token_if_its_time_is(
    onset: int, duration: int, stride: int, center: int | None
) -> None:
    start, stop = Grid(stride, center).frames(onset, onset + duration)
    first = Fraction(stride, 2) if center is None else Fraction(center)

    def time(frame: int) -> Fraction:
        return (first + frame * stride) / 16_000 * 10**6

    assert start == 0 or time(start - 1) < onset
    assert time(start) >= onset
    assert time(stop) > onset + duration
    assert stop == 0 or time(stop - 1) <= onset + duration


def test_times_of_ten_milliseconds_are_not_rounded() -> None:
    assert Grid().frames(70_000, 290_000) == (3, 15)  # floats give 4 and 14


def test_the_center_of_the_receptive_field_can_be_the_time_of_a_frame() -> None:
    assert Grid().frames(30_000, 50_000) == (1, 3)
    assert Grid(center=200).frames(30_000, 50_000) == (1, 2)  # 32.5 ms; 52.5 ms is outside


def test_tokens_beyond_the_end_are_clipped_or_dropped_and_counted() -> None:
    tokens = [
        token(0, 100_000),
        token(150_000, 250_000),
        token(200_000, 300_000),
        token(41_000, 42_000),
        token(0, 100_000, "unknown"),
    ]
    spans = find_frames(tokens, {"u": 10})
    assert spans.tokens == tuple(tokens[:2])
    assert (spans.starts.tolist(), spans.lengths.tolist()) == ([0, 7], [5, 3])
    assert spans.dropped.counts == {
        CLIPPED: 1,
        "tokens without a frame": 2,
        "tokens of utterances without features": 1,
    }


def test_a_token_that_is_listed_twice_is_compared_once_and_counted() -> None:
    other = replace(token(0, 100_000), category="D")
    tokens = [token(0, 100_000), other, token(0, 100_000), token(0, 120_000), token(0, 100_000)]
    spans = find_frames(tokens, {"u": 10})
    assert spans.tokens == (token(0, 100_000), other, token(0, 120_000))
    assert spans.dropped.counts == {DOUBLED: 2}
    assert spans.dropped.examples == {DOUBLED: "'A' at 0 s of 'u'"}


def test_no_token_at_all_is_an_error_with_the_reasons() -> None:
    with pytest.raises(CorpusError, match="1 tokens of utterances without features, the first is"):
        find_frames([token(0, 100_000)], {})
    with pytest.raises(CorpusError, match="the list is empty"):
        find_frames([], {})
