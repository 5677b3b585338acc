"""Batches: every cut once per epoch, the same order for the same seed and epoch, little padding,
workers or not.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from lhotse import CutSet, MonoCut

from mt4ssl_bench.data import audio
from mt4ssl_bench.data.batches import Batches, Place, endless, pad
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.errors import CorpusError, TrainingError


def synthetic(count: int, seed: int = 0) -> CutSet:
    """Return cuts without audio whose durations are spread as those of read speech: median 7.4 s,
    0.5 to 30 s.
    """
    durations = np.clip(np.random.default_rng(seed).lognormal(2.0, 0.4, count), 0.5, 30).round(3)
    return CutSet.from_cuts(
        MonoCut(id=f"c{i}", start=0, duration=float(d), channel=0) for i, d in enumerate(durations)
    )


def names(cuts: Sequence[Any]) -> tuple[str, ...]:
    return tuple(cut.id for cut in cuts)


def durations(cuts: Sequence[Any]) -> list[float]:
    return [cut.duration for cut in cuts]


CUTS = synthetic(500)


def test_rows_of_unequal_length_are_padded_with_zeros_and_keep_their_lengths() -> None:
    padded, lengths = pad([np.array([1.0, 2.0, 3.0], np.float32), np.array([4.0], np.float32)])
    assert padded.tolist() == [[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]]
    assert lengths.tolist() == [3, 1]
    assert (padded.dtype, lengths.dtype) == (torch.float32, torch.int64)


def test_padding_keeps_the_type_of_its_rows() -> None:
    padded, _ = pad([np.array([1, 2], np.int64), np.array([3], np.int64)])
    assert padded.dtype == torch.int64
    assert padded.tolist() == [[1, 2], [3, 0]]


def test_rows_that_are_views_with_holes_or_read_backwards_are_padded_too() -> None:
    row = np.arange(6, dtype=np.float32)
    assert pad([row[::2], row[::-1]])[0].tolist() == [[0, 2, 4, 0, 0, 0], [5, 4, 3, 2, 1, 0]]


@pytest.mark.filterwarnings("ignore:We have exceeded the max_duration")
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("limit", [{"seconds": 80.0}, {"count": 16}, {"seconds": 1.0}])
def test_every_cut_comes_exactly_once_per_epoch(limit: dict[str, Any], shuffle: bool) -> None:  # noqa: FBT001
    batches = Batches(CUTS, names, shuffle=shuffle, **limit)
    for epoch in (0, 1):
        assert Counter(name for batch in batches(epoch) for name in batch) == Counter(CUTS.ids)


@pytest.mark.parametrize("count", [1, 2, 3, 19, 20, 21, 45])
def test_few_cuts_are_served_as_well(count: int) -> None:
    cuts = synthetic(count)
    for shuffle in (True, False):
        served = [
            name for batch in Batches(cuts, names, seconds=20, shuffle=shuffle)() for name in batch
        ]
        assert sorted(served) == sorted(cuts.ids)


def test_no_batch_passes_its_limit_with_padding_counted() -> None:
    for batch in Batches(CUTS, durations, seconds=80, shuffle=True)():
        assert len(batch) * max(batch) <= 80
    sizes = [len(batch) for batch in Batches(CUTS, durations, count=16, shuffle=True)()]
    assert max(sizes) == 16
    assert sum(sizes) == 500


@pytest.mark.filterwarnings("ignore:We have exceeded the max_duration")
def test_a_cut_longer_than_the_limit_makes_a_batch_of_its_own() -> None:
    cuts = CutSet.from_cuts(
        MonoCut(id=f"c{d}", start=0, duration=d, channel=0) for d in (100, 1, 2)
    )
    assert sorted(Batches(cuts, durations, seconds=80)()) == [[1, 2], [100]]


def test_the_same_seed_and_epoch_give_the_same_order_and_others_give_another() -> None:
    def order(seed: int, epoch: int) -> list[tuple[str, ...]]:
        return list(Batches(CUTS, names, seconds=80, seed=seed, shuffle=True)(epoch))

    first = order(1, 0)
    assert order(1, 0) == first
    assert order(1, 1) != first
    assert order(2, 0) != first
    assert {frozenset(batch) for batch in order(1, 1)} != {frozenset(batch) for batch in first}


def test_one_object_gives_its_epochs_in_any_order_again_and_again() -> None:
    batches = Batches(CUTS, names, seconds=80, shuffle=True)
    zero, one = list(batches(0)), list(batches(1))
    assert list(batches(1)) == one
    assert list(batches(0)) == zero


def test_without_shuffling_the_order_is_always_the_same() -> None:
    assert list(Batches(CUTS, names, seconds=80)()) == list(Batches(CUTS, names, seconds=80)())


@pytest.mark.parametrize("skip", [0, 1, 7, 58])
def test_skipping_gives_exactly_the_tail_of_the_epoch(skip: int) -> None:
    batches = Batches(CUTS, names, seconds=80, shuffle=True)
    whole = list(batches(3))
    assert len(whole) > 50
    assert list(batches(3, skip)) == whole[skip:]


def test_skipping_a_whole_epoch_gives_nothing_and_skipped_batches_are_not_made() -> None:
    made: list[tuple[str, ...]] = []
    batches = Batches(CUTS, lambda cuts: made.append(names(cuts)), seconds=80, shuffle=True)
    assert list(batches(0, 10_000)) == []
    assert made == []


def test_padding_takes_less_than_5_per_cent() -> None:
    real = padded = 0.0
    for batch in Batches(CUTS, durations, seconds=80, shuffle=True)():
        real += sum(batch)
        padded += len(batch) * max(batch)
    assert 1 - real / padded < 0.05


def _waves(cuts: Sequence[Any]) -> tuple[torch.Tensor, torch.Tensor, tuple[str, ...], np.ndarray]:
    waves, lengths = pad([audio.read(cut) for cut in cuts])
    return waves, lengths, names(cuts), lengths.numpy()


def test_two_workers_give_the_same_batches_as_none(corpus: Corpus) -> None:
    alone, helped = (
        list(
            Batches(
                list(corpus.cuts("train")), _waves, seconds=8, seed=5, shuffle=True, workers=workers
            )(2, 1)
        )
        for workers in (0, 2)
    )
    assert len(alone) == len(helped) > 2
    for ours, theirs in zip(alone, helped, strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])
        assert ours[2] == theirs[2]
        assert [type(part) for part in theirs] == [torch.Tensor, torch.Tensor, tuple, np.ndarray]
        assert type(theirs) is tuple


def test_starting_workers_draws_no_random_number(corpus: Corpus) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    next(Batches(corpus.cuts("train"), names, count=4, workers=1)())
    assert torch.equal(
        torch.get_rng_state(), before
    )  # a resumed run starts its workers where another goes on


def test_an_error_in_a_worker_reaches_the_caller(corpus: Corpus) -> None:
    def fail(cuts: Sequence[Any]) -> None:
        raise ValueError(f"bad {len(cuts)}")

    with pytest.raises(ValueError, match="bad 4"):
        list(Batches(list(corpus.cuts("train")), fail, count=4, workers=1)())


# ---- the endless order, shared by processes ----


def letters(epoch: int, skip: int) -> Iterator[str]:
    """Yield five batches per epoch: 0a 0b 0c 0d 0e, 1a ..."""
    yield from [f"{epoch}{letter}" for letter in "abcde"][skip:]


def test_processes_share_one_endless_order_in_rounds_that_cross_epochs() -> None:
    alone = [batch for _, batch in islice(endless(letters)(Place()), 12)]
    assert " ".join(alone) == "0a 0b 0c 0d 0e 1a 1b 1c 1d 1e 2a 2b"
    for world in (2, 3, 4, 6):
        shares = [
            islice(endless(letters, rank=rank, world=world)(Place()), 12 // world)
            for rank in range(world)
        ]
        assert [batch for group in zip(*shares, strict=True) for _, batch in group] == alone


def test_any_number_of_processes_goes_on_from_the_place_after_a_round() -> None:
    order = [batch for _, batch in islice(endless(letters)(Place()), 30)]
    places = [
        [place for place, _ in islice(endless(letters, rank=r, world=4)(Place()), 3)]
        for r in range(4)
    ]
    assert places == [[Place(0, 4), Place(1, 3), Place(2, 2)]] * 4
    for rank in range(2):
        rest = islice(endless(letters, rank=rank, world=2)(Place(1, 3)), 6)
        assert [batch for _, batch in rest] == order[8 + rank : 20 : 2]


def test_the_end_of_an_epoch_is_a_place_too() -> None:
    assert next(endless(letters)(Place(0, 5))) == (Place(1, 1), "1a")


def test_epochs_without_batches_are_an_error_and_no_endless_loop() -> None:
    with pytest.raises(TrainingError, match="an epoch holds no batch"):
        next(endless(lambda *_: ())(Place()))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_share_of_the_stream_makes_its_own_batches_alone(corpus: Corpus, workers: int) -> None:
    batches = Batches(
        list(corpus.cuts("train")), names, count=4, seed=5, shuffle=True, workers=workers
    )
    assert len(list(batches(0))) == 5
    alone = list(islice(batches.stream()(Place(0, 3)), 8))
    assert [place for place, _ in alone[:3]] == [Place(0, 4), Place(0, 5), Place(1, 1)]
    for rank in range(2):
        made = list(islice(batches.stream(rank=rank, world=2)(Place(0, 3)), 4))
        assert [batch for _, batch in made] == [batch for _, batch in alone[rank::2]]
        assert [place for place, _ in made] == [place for place, _ in alone[1::2]]


def test_one_epoch_is_shared_without_rounds_and_ends_with_the_batch_that_is_enough() -> None:
    batches = Batches(CUTS, names, seconds=80, enough=800)
    whole = list(batches())
    heard = [sum(CUTS[name].duration for name in batch) for batch in whole]
    assert sum(heard) >= 800 > sum(heard[:-1])
    assert list(Batches(CUTS, names, seconds=80)())[: len(whole)] == whole
    assert [list(batches(0, 1, rank=rank, world=3)) for rank in range(3)] == [
        whole[1 + rank :: 3] for rank in range(3)
    ]


def test_crops_belong_to_their_epoch_and_their_length_decides_the_batches() -> None:
    batches = Batches(CUTS, list, seconds=20, crop=lambda cut, epoch: (cut.id, epoch), longest=0.4)
    assert {epoch for batch in batches(3) for _, epoch in batch} == {3}
    assert max(len(batch) for batch in batches(0)) == 50


def test_an_error_for_the_user_crosses_a_worker_as_it_is(corpus: Corpus) -> None:
    def fail(cuts: Sequence[Any]) -> None:
        raise CorpusError(f"bad {len(cuts)}")

    with pytest.raises(CorpusError, match="^bad 4$"):
        list(Batches(corpus.cuts("train"), fail, count=4, workers=1)())
