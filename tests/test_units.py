"""Units and CTC's greedy path."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mt4ssl_bench.downstream.phoneme import Phoneme
from mt4ssl_bench.downstream.task import TaskConfig
from mt4ssl_bench.downstream.units import Characters, Phonemes, Pieces, drop_stress
from mt4ssl_bench.errors import CorpusError


def test_characters_come_from_the_training_text_and_go_back() -> None:
    units = Characters(["IT'S A CAT", "A TIC"])
    assert units.symbols == [" ", "'", "A", "C", "I", "S", "T"]
    assert len(units) == 8
    assert units.decode(units.encode("A CAT")) == "A CAT"
    assert units.encode("AZA") == [3, 3]  # Z is unknown
    assert units.decode([1, 3, 1, 1, 7, 1]) == "A T"


def test_phonemes_are_tokens() -> None:
    units = Phonemes(["K AE T", "AE K"])
    assert units.symbols == ["AE", "K", "T"]
    assert units.decode(units.encode("T AE ZH K")) == "T AE K"


def test_pieces_go_back_to_text_and_refuse_an_impossible_size() -> None:
    texts = ["THE CAT SAT ON THE MAT", "A DOG SAT ON THE LOG", "THE LOG IS ON THE MAT"] * 3
    units = Pieces(texts, 20)
    assert len(units) == 21
    assert units.decode(units.encode("THE DOG SAT")) == "THE DOG SAT"
    assert min(units.encode("THE DOG SAT")) >= 1  # 0 is CTC's blank
    with pytest.raises(CorpusError, match="vocabulary=5000"):
        Pieces(texts, 5000)


def test_stress_is_dropped_from_vowels() -> None:
    assert drop_stress("HH AH0 L OW1") == "HH AH L OW"


class Cut:
    def __init__(self, phones: str) -> None:
        self.supervisions: list[Any] = [SimpleNamespace(custom={"phones": phones})]


def test_greedy_decoding_collapses_repeats_then_drops_blanks() -> None:
    task = Phoneme(TaskConfig())
    task.fit_units([Cut("A B C")])
    path = [0, 1, 1, 0, 1, 2, 2, 0, 3, 3]
    logits = torch.nn.functional.one_hot(torch.tensor([path, path]), 4).float()
    assert task.decode(logits, torch.tensor([10, 5])) == ["A A B C", "A A"]


def test_ctc_loss_of_a_certain_path_is_zero_and_of_an_impossible_one_too() -> None:
    task = Phoneme(TaskConfig())
    task.fit_units([Cut("A B")])
    logits = 100 * torch.nn.functional.one_hot(torch.tensor([[1, 0, 2]]), 3).float()
    assert task.loss(logits, torch.tensor([3]), [torch.tensor([1, 2])]).item() == pytest.approx(0, abs=1e-5)
    assert task.loss(logits, torch.tensor([3]), [torch.tensor([1, 1, 1, 1])]).item() == 0
