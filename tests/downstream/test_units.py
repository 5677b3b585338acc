"""Units and CTC's greedy path."""

import base64
import io
import json
import unicodedata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sentencepiece
import torch

from builders import spoken
from mt4ssl_bench.downstream.heads.pieces import Pieces
from mt4ssl_bench.downstream.heads.units import (
    Characters,
    Phonemes,
    Units,
    drop_stress,
    restore,
)
from mt4ssl_bench.downstream.tasks.asr import ASR, ASRConfig
from mt4ssl_bench.downstream.tasks.phoneme import Phoneme, PhonemeConfig
from mt4ssl_bench.errors import CheckpointError, CorpusError


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
    units = Pieces.train(texts, 20)
    assert len(units) == 21
    assert units.decode(units.encode("THE DOG SAT")) == "THE DOG SAT"
    assert min(units.encode("THE DOG SAT")) >= 1  # 0 is CTC's blank
    with pytest.raises(CorpusError, match="vocabulary=5000"):
        Pieces.train(texts, 5000)


def test_pieces_know_the_letters_of_long_texts() -> None:
    units = Pieces.train(["AB A", "A BA"] * 3 + ["Z A " * 1200], 7)
    assert "Z" in units
    assert "C" not in units


def test_pieces_decode_without_doubled_spaces() -> None:
    units = Pieces.train(["AB C", "C AB", "B A C"] * 3, 8)
    lone = next(i for i in range(1, len(units)) if units._processor.id_to_piece(i - 1) == "\u2581")
    (c,) = (i for i in units.encode("C") if i != lone)
    assert units.decode([lone, c, lone, lone, c, lone]) == "C C"
    kept = Pieces.train(["A\u00a0B"] * 3, 7)
    assert kept.decode(kept.encode("A\u00a0B")) == "A\u00a0B"


def test_pieces_know_spaces_and_the_letters_of_the_training_text() -> None:
    texts = ["THE CAT SAT ON THE MAT", "A DOG SAT ON THE LOG", "THE LOG IS ON THE MAT"] * 3
    task = ASR(ASRConfig(units="sentencepiece", vocabulary=20))
    task.fit_units([spoken(text) for text in texts])
    assert all(task.knows(symbol) for symbol in "CATDOGMLISHEN ")
    assert not any(task.knows(symbol) for symbol in "ZQÄ\u200b\u4e2d")
    assert task.fitted.decode(task.target(spoken("THE ÄZ DOG")).tolist()).split() == ["THE", "DOG"]


@pytest.mark.parametrize(
    "text",
    [
        unicodedata.normalize("NFD", "É Ä CAFÉ"),
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian, with a ZWNJ
        "\ufb01NE \u00bd X\u00b2",  # a ligature, a fraction, a power
        "\uff21\uff22 \uff21",  # full-width letters
    ],
)
def test_pieces_write_texts_as_they_are(text: str) -> None:
    units = Pieces.train([text, "AB"] * 3, len({*text} - {" "}) + 6)
    assert units.decode(units.encode(text)) == text


def test_a_stored_model_of_pieces_keeps_its_own_rule() -> None:
    old = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["X2 A"] * 3), model_writer=old, vocab_size=7, minloglevel=2
    )
    units = restore({"kind": "sentencepiece", "model": base64.b64encode(old.getvalue()).decode()})
    assert units.decode(units.encode("X\u00b2 A")) == "X2 A"


def test_records_of_pieces_name_their_rule_and_others_do_not() -> None:
    assert ASRConfig(units="sentencepiece").identity() == {
        "units": "sentencepiece",
        "normalization": "identity",
    }
    assert ASRConfig().identity() == {}


def test_stress_is_dropped_from_vowels() -> None:
    assert drop_stress("HH AH0 L OW1") == "HH AH L OW"


def test_greedy_decoding_collapses_repeats_then_drops_blanks() -> None:
    task = Phoneme(PhonemeConfig())
    task.fit_units([spoken(phones="A B C")])
    path = [0, 1, 1, 0, 1, 2, 2, 0, 3, 3]
    logits = torch.nn.functional.one_hot(torch.tensor([path, path]), 4).float()
    assert task.decode(logits, torch.tensor([10, 5])) == ["A A B C", "A A"]


def test_ctc_loss_of_a_certain_path_is_zero_and_of_an_impossible_one_too() -> None:
    task = Phoneme(PhonemeConfig())
    task.fit_units([spoken(phones="A B")])
    logits = 100 * torch.nn.functional.one_hot(torch.tensor([[1, 0, 2]]), 3).float()
    assert task.loss(logits, torch.tensor([3]), [torch.tensor([1, 2])]).item() == pytest.approx(
        0, abs=1e-5
    )
    assert task.loss(logits, torch.tensor([3]), [torch.tensor([1, 1, 1, 1])]).item() == 0


@pytest.mark.parametrize(
    "made", [Characters(["IT'S A CAT"]), Phonemes(["K AE T"]), Pieces.train(["A CAT SAT"] * 3, 9)]
)
def test_units_come_back_from_what_a_file_holds(made: Units) -> None:
    stored = json.loads(json.dumps(made.state()))
    again = restore(stored)
    assert type(again) is type(made)
    assert len(again) == len(made)
    for text in ("A CAT", "K T AE"):
        assert again.encode(text) == made.encode(text)
        assert again.decode(again.encode(text)) == made.decode(made.encode(text))
    with pytest.raises(
        CheckpointError, match="kind 'syllables', expected characters, phonemes or sentencepiece"
    ):
        restore({"kind": "syllables"})


@pytest.mark.parametrize(
    ("texts", "size", "message"),
    [
        (["THE CAT"], 5000, "vocabulary=5000: .*too high.* <= 9"),
        (["THE CAT"], 3, "vocabulary=3: .*smaller than required_chars"),
        (["THE CAT"], 0, "vocabulary=0: .*no unit asked for"),
        ([""], 10, "vocabulary=10: .*no text"),
    ],
)
def test_pieces_say_why_a_size_does_not_fit(texts: list[str], size: int, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        Pieces.train(texts, size)


def test_a_lexicon_replaces_the_corpus_s_phones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "lexicon.txt"
    file.write_text("cat\tK AE1 T\ncat(2) K AE0 T\nSAT  S AE1 T\n", encoding="utf-8")
    task = Phoneme(PhonemeConfig(lexicon=str(file)))
    assert Phoneme.fields(task.config) == ("text",)
    assert Phoneme.fields(PhonemeConfig()) == ("phones",)
    with caplog.at_level("WARNING", logger="mt4ssl_bench"):
        task.fit_units([spoken("Cat sat"), spoken("CAT RAN")])
    assert (
        "1 words of the training text are not in it (RAN), 1 times; they become SPN" in caplog.text
    )
    assert task.reference(spoken("cat ran sat")) == "K AE1 T SPN S AE1 T"
    assert task.state() == {
        "kind": "phonemes",
        "symbols": ["AE1", "K", "S", "SPN", "T"],
        "words": [],
    }
    plain = Phoneme(PhonemeConfig(stress="drop"))
    assert plain.reference(spoken("CAT", "K AE1 T")) == "K AE T"
    common = Phoneme(PhonemeConfig(lexicon="cmudict", stress="drop"))
    common.fit_units([spoken("HELLO")])
    assert common.reference(spoken("hello")) == "HH AH L OW"


def test_speech_recognition_writes_pieces_where_the_recipe_says_so() -> None:
    pieces = ASR(ASRConfig(units="sentencepiece", vocabulary=8))
    pieces.fit_units([spoken("a cat sat")])
    assert pieces.decode(*_say(pieces, "A CAT SAT")) == ["A CAT SAT"]
    assert pieces.words == ["A", "CAT", "SAT"]
    again = ASR(ASRConfig(units="sentencepiece", vocabulary=8))
    again.restore(pieces.state())
    assert (again.outputs, again.words) == (9, pieces.words)


def _say(task: ASR, text: str) -> tuple[torch.Tensor, torch.Tensor]:
    path = [i for unit in task.fitted.encode(text) for i in (unit, 0)]
    return torch.nn.functional.one_hot(torch.tensor([path]), task.outputs).float(), torch.tensor(
        [len(path)]
    )


@pytest.mark.parametrize("apostrophe", ["'", "\u2019", "\u02bc"])
def test_asr_has_one_apostrophe_among_its_characters(apostrophe: str) -> None:
    def cut(text: str) -> Any:
        return SimpleNamespace(supervisions=[SimpleNamespace(text=text)])

    task = ASR(ASRConfig(task="asr"))
    task.fit_units([cut("don't"), cut(f"can{apostrophe}t")])
    assert task.fitted.state()["symbols"] == ["'", "A", "C", "D", "N", "O", "T"]
    assert task.reference(cut(f"can{apostrophe}t")) == "CAN'T"
