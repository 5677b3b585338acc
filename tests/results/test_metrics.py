"""Error rates against counts made by hand, and intervals against the binomial's."""

import dataclasses
import math

import numpy as np
import pytest

from builders import accuracy, error_rate
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.results.answers import pair
from mt4ssl_bench.results.metrics import METRICS
from mt4ssl_bench.results.metrics.error_rates import error_counts


def test_word_counts_are_those_made_by_hand() -> None:
    references = ["THE CAT SAT", "A B C D", "ONE TWO", "YES"]
    hypotheses = ["THE HAT SAT", "A C D", "ONE TWO TWO THREE", ""]
    counts = error_counts(references, hypotheses, by="words")
    assert counts.tolist() == [[1, 0, 0, 3], [0, 1, 0, 4], [0, 0, 2, 2], [0, 1, 0, 1]]


def test_phonemes_are_words_and_keep_their_stress() -> None:
    assert error_counts(["HH AH0 L OW1"], ["HH AH1 L OW1"], by="words").tolist() == [[1, 0, 0, 4]]


def test_characters_count_the_spaces_between_words() -> None:
    # "AB CD" has 5 characters; "ABCD" lacks the space, "AB CE" has one wrong letter
    counts = error_counts(["AB CD", "AB CD"], ["ABCD", "AB CE"], by="characters")
    assert counts.tolist() == [[0, 1, 0, 5], [1, 0, 0, 5]]


def test_text_is_not_normalised() -> None:
    assert error_counts(["Don't"], ["dont"], by="words").tolist() == [[1, 0, 0, 1]]


def test_an_empty_hypothesis_is_all_deletions() -> None:
    assert error_counts(["A B C"], [""], by="words").tolist() == [[0, 3, 0, 3]]
    assert error_counts(["A B C"], [" "], by="characters").tolist() == [[0, 5, 0, 5]]


@pytest.mark.parametrize("empty", ["", "  ", "\t\n"])
def test_words_in_an_utterance_in_which_nobody_speaks_are_insertions(empty: str) -> None:
    counts = error_counts(["A", empty, empty], ["A", "B C", ""], by="words")
    assert counts.tolist() == [[0, 0, 0, 1], [0, 0, 2, 0], [0, 0, 0, 0]]
    assert error_counts([empty], ["B C"], by="characters").tolist() == [[0, 0, 3, 0]]
    score = error_rate(counts)
    assert (score.value, score.insertions, score.total) == (200.0, 2, 1)
    assert 0 <= score.low <= score.high < math.inf  # draws without any reference word have no rate


def test_references_without_any_token_have_no_rate() -> None:
    with pytest.raises(CorpusError, match="all 2 references are empty; expected at least one"):
        error_rate(error_counts(["", " "], ["A", ""], by="words"))


def test_a_rate_is_total_errors_over_total_tokens_and_not_the_mean_of_rates() -> None:
    # 1 of 1 and 1 of 9 wrong: 2 of 10, where the mean of the rates would be 55.6 %
    score = error_rate(
        error_counts(["A", "A B C D E F G H I"], ["B", "A B C D E F G H"], by="words")
    )
    assert score.value == 20.0
    assert (score.errors, score.total) == (2, 10)
    assert (score.substitutions, score.deletions, score.insertions) == (1, 1, 0)
    assert score.higher_is_better is False


def test_insertions_can_pass_100_per_cent() -> None:
    assert error_rate(error_counts(["A"], ["A B C"], by="words")).value == 200.0


def test_accuracy_counts_utterances() -> None:
    score = accuracy([True, True, True, False])
    assert (score.value, score.errors, score.total) == (75.0, 1, 4)
    assert (score.substitutions, score.deletions, score.insertions) == (0, 0, 0)
    assert score.higher_is_better is True


def test_the_interval_of_accuracy_is_the_binomials() -> None:
    number, share = 2000, 0.7
    score = accuracy([index < number * share for index in range(number)], samples=4000)
    half = 100 * 1.96 * math.sqrt(share * (1 - share) / number)  # 2.008 points
    assert score.low == pytest.approx(70 - half, abs=0.15)
    assert score.high == pytest.approx(70 + half, abs=0.15)


def test_the_interval_of_a_rate_is_the_ratio_estimators() -> None:
    generator = np.random.default_rng(3)
    tokens = generator.integers(5, 30, size=1500)
    errors = generator.binomial(tokens, 0.2)
    counts = np.stack([errors, 0 * errors, 0 * errors, tokens], axis=1)
    score = error_rate(counts, samples=4000)
    rate = errors.sum() / tokens.sum()
    half = 196 * math.sqrt(((errors - rate * tokens) ** 2).sum()) / tokens.sum()  # delta method
    assert score.value == pytest.approx(100 * rate)
    assert score.low == pytest.approx(100 * rate - half, abs=0.1 * half)
    assert score.high == pytest.approx(100 * rate + half, abs=0.1 * half)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    correct = [index % 3 > 0 for index in range(200)]
    assert accuracy(correct, seed=1) == accuracy(correct, seed=1)
    assert accuracy(correct, seed=1) != accuracy(correct, seed=2)


def test_many_utterances_are_drawn_in_chunks_with_the_same_meaning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    correct = [index % 2 == 0 for index in range(400)]
    whole = accuracy(correct, samples=2000)
    monkeypatch.setattr("mt4ssl_bench.results.intervals.CHUNK", 1000)
    pieces = accuracy(correct, samples=2000)
    assert pieces.low == pytest.approx(whole.low, abs=0.6)
    assert pieces.high == pytest.approx(whole.high, abs=0.6)


def test_speakers_are_resampled_where_there_are_five() -> None:
    # every speaker is all right or all wrong: 100 utterances say no more than 10 speakers do
    speakers = [str(index // 10) for index in range(100)]
    correct = [int(speaker) < 5 for speaker in speakers]
    score = accuracy(correct, speakers=speakers)
    assert score.speaker_low is not None
    assert score.speaker_high is not None
    assert score.speaker_high - score.speaker_low == pytest.approx(
        60, abs=10
    )  # binomial of 10: 20 to 80
    assert score.high - score.low == pytest.approx(20, abs=3)  # binomial of 100: 40.2 to 59.8


def test_four_speakers_are_too_few_for_an_interval_over_speakers() -> None:
    score = accuracy([True, False] * 4, speakers=[*"abcd", *"abcd"])
    assert (score.speaker_low, score.speaker_high) == (None, None)


def test_speakers_are_grouped_by_name_and_not_by_neighbourhood() -> None:
    counts = error_counts(["A B"] * 10, ["A B", "A"] * 5, by="words")
    speakers = list("abcdefghij")
    order = [9, 0, 8, 1, 7, 2, 6, 3, 5, 4]
    one = error_rate(counts, speakers=speakers)
    other = error_rate(counts[order], speakers=[speakers[index] for index in order])
    assert (one.speaker_low, one.speaker_high) == (other.speaker_low, other.speaker_high)


def test_no_utterances_is_an_error() -> None:
    with pytest.raises(CorpusError, match="0 utterances"):
        error_rate(error_counts([], [], by="words"))


def test_directions_titles_and_places_are_the_metrics_own() -> None:
    expected = {"per": False, "wer": False, "cer": False, "acc": True, "fold_acc": True}
    expected |= {"abx_within": False, "abx_across": False, "mtwv": True}
    expected |= {"si_sdri": True, "pesq": True, "pesq_mixture": True, "stoi": True}
    expected |= {"stoi_mixture": True, "der": False, "der_by_rule": False}
    expected |= {"slot_type_f1": True, "slot_value_cer": False, "eer": False, "mindcf": False}
    expected |= {"eer_by_rule": False}
    assert {name: metric.higher_is_better for name, metric in METRICS.items()} == expected
    orders = {name: metric.order for name, metric in METRICS.items()}
    assert orders["per"] < orders["wer"] == orders["cer"] < orders["acc"]
    answers = pair(["A B"], ["A"])
    assert METRICS.get("per").score(answers).label == "PER % ↓"
    assert METRICS.get("acc").score(answers).label == "ACC % ↑"
    assert METRICS.get("per").better(1.0, 2.0)
    assert METRICS.get("acc").better(2.0, 1.0)
    assert not any(metric.better(1.0, 1.0) for _, metric in METRICS.items())


def test_each_metric_counts_in_its_own_tokens() -> None:
    answers = pair(["AB CD", "E"], ["AB CE", "E"])
    words, characters = [[1, 0, 0, 2], [0, 0, 0, 1]], [[1, 0, 0, 5], [0, 0, 0, 1]]
    answers_wrong = [[1, 0, 0, 1], [0, 0, 0, 1]]
    expected = {"per": words, "wer": words, "cer": characters, "acc": answers_wrong}
    expected |= {"slot_value_cer": [[0] * 4] * 2}  # no slots here
    for name, counts in expected.items():
        found = METRICS.get(name).counts(answers)
        assert found is not None
        assert found.tolist() == counts
    assert METRICS.get("pesq").counts(answers) is None, "it is no ratio of sums"


def test_a_metrics_score_is_that_of_its_counts() -> None:
    references, hypotheses, speakers = ["A B", "C", "D"], ["A", "C", "D"], ["x", "y", "z"]
    answers = pair(references, hypotheses, speakers)
    score = METRICS.get("wer").score(answers)
    rate = error_rate(error_counts(references, hypotheses, by="words"), speakers=speakers)
    assert score == dataclasses.replace(rate, title="WER", order=20)
    right = accuracy([False, True, True])
    assert METRICS.get("acc").score(answers) == dataclasses.replace(right, title="ACC", order=30)
