"""Beam search: what a language model mends, and that the search is torchaudio's."""

from pathlib import Path

import pytest
import torch

from builders import write_arpa
from mt4ssl_bench.downstream.config import DecodeConfig, WordDecodeConfig
from mt4ssl_bench.downstream.heads.beam_search import BeamDecoder, tuned
from mt4ssl_bench.downstream.heads.flashlight import read_words
from mt4ssl_bench.downstream.heads.pieces import Pieces
from mt4ssl_bench.downstream.heads.units import Characters, Phonemes, Units
from mt4ssl_bench.errors import ConfigError

pytest.importorskip("flashlight.lib.text", reason="flashlight-text has no wheel for this Python")

WORDS = ["A", "CAT", "HAT", "SAT", "THE"]
SENTENCES = ["THE CAT SAT", "A CAT SAT", "THE HAT"]


@pytest.fixture(scope="module")
def arpa(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_arpa(tmp_path_factory.mktemp("lm") / "words.arpa", SENTENCES)


def say(units: Units, text: str, sure: float = 6.0) -> torch.Tensor:
    """Return logits (1, T, V) whose greedy path is `text`: each unit for two frames, then a
    blank.
    """
    path = [i for unit in units.encode(text) for i in (unit, unit, 0)]
    return sure * torch.nn.functional.one_hot(torch.tensor([path]), len(units)).float()


def greedy(units: Units, logits: torch.Tensor) -> str:
    path = logits[0].argmax(-1).unique_consecutive()
    return units.decode(path[path != 0].tolist())


def all_of(logits: torch.Tensor) -> torch.Tensor:
    return torch.full((len(logits),), logits.shape[1])


def test_the_language_model_mends_a_planted_error(arpa: str) -> None:
    units = Characters(SENTENCES)
    decoder = BeamDecoder(units, WORDS, WordDecodeConfig(lm=arpa))
    logits = say(units, "THE CAT SAT")
    start = 3 * len("THE ")
    logits[0, start : start + 2] += 6.5 * torch.nn.functional.one_hot(
        torch.tensor(units.encode("H")[0]), len(units)
    )
    assert greedy(units, logits) == "THE HAT SAT"
    assert decoder.decode(logits, all_of(logits)) == ["THE CAT SAT"]
    without = decoder.using(WordDecodeConfig(lm_weight=0.0, word_score=0.0))
    assert without.decode(logits, all_of(logits)) == ["THE HAT SAT"]


def test_words_come_from_the_lexicon_alone_and_rows_end_at_their_length(
    arpa: str, tmp_path: Path
) -> None:
    units = Characters(SENTENCES)
    logits = say(units, "THE CATS SAT")
    assert BeamDecoder(units, WORDS, WordDecodeConfig(lm=arpa)).decode(logits, all_of(logits)) == [
        "THE CAT SAT"
    ]
    (tmp_path / "words.txt").write_text(
        "the\tT H E |\ncats C A T S |\nSAT\n\nZEBRA Z\n", encoding="utf-8"
    )
    config = WordDecodeConfig(lm=arpa, lexicon=str(tmp_path / "words.txt"))
    other = BeamDecoder(units, WORDS, config)
    assert other.decode(logits.repeat(2, 1, 1), torch.tensor([36, 12])) == ["THE CATS SAT", "THE"]
    assert read_words(tmp_path / "words.txt") == ["CATS", "SAT", "THE", "ZEBRA"]


def test_words_of_a_lexicon_are_written_as_transcripts_and_others_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sentences = ["CAT CAB", "DON'T"]
    lm = write_arpa(tmp_path / "words.arpa", sentences)
    lexicon = tmp_path / "words.txt"
    words = ["CAT", "DON\u2019T", "DON'T", "CAF\u00c9", "CAB", "CAB(2)"]
    lexicon.write_text("\n".join([";;; words", *words]), encoding="utf-8-sig")
    assert read_words(lexicon) == ["CAB", "CAF\u00c9", "CAT", "DON'T"]
    units = Characters(sentences)
    decoder = BeamDecoder(units, [], WordDecodeConfig(lm=lm, lexicon=str(lexicon)))
    (record,) = caplog.records
    assert "1 of 4 words left out, for example 'CAF\u00c9'; the train" in record.getMessage()
    logits = say(units, "CAT DON'T CAB")
    assert decoder.decode(logits, all_of(logits)) == ["CAT DON'T CAB"]


def test_silence_is_no_word(arpa: str) -> None:
    units = Characters(SENTENCES)
    silence = torch.zeros(1, 7, len(units))
    silence[..., 0] = 9.0
    assert BeamDecoder(units, WORDS, WordDecodeConfig(lm=arpa)).decode(
        silence, torch.tensor([7])
    ) == [""]


def test_phonemes_are_searched_with_a_model_of_phonemes(tmp_path: Path) -> None:
    units = Phonemes(["HH AE T", "K AE T"])
    lm = write_arpa(tmp_path / "phones.arpa", ["K AE T", "K AE T K AE T"])
    logits = say(units, "K AE T")
    logits[0, :2] += 6.2 * torch.nn.functional.one_hot(
        torch.tensor(units.encode("HH")[0]), len(units)
    )
    decoder = BeamDecoder(units, [], DecodeConfig(lm=lm))
    assert decoder.decode(logits, all_of(logits)) == ["K AE T"]
    without = decoder.using(DecodeConfig(lm_weight=0.0))
    assert without.decode(logits, all_of(logits)) == ["HH AE T"]
    double = say(units, "T T")
    assert without.decode(double, all_of(double)) == ["T T"]


def test_the_search_is_torchaudios_on_any_emissions(arpa: str, tmp_path: Path) -> None:
    from torchaudio.models.decoder import ctc_decoder

    units = Characters(SENTENCES)
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("".join(f"{word}\t{' '.join(word)} |\n" for word in WORDS), encoding="utf-8")
    theirs = ctc_decoder(
        lexicon=str(lexicon),
        tokens=["-", *("|" if symbol == " " else symbol for symbol in units.symbols)],
        lm=arpa,
        beam_size=20,
        beam_threshold=25,
        lm_weight=2,
        word_score=-1,
        sil_token="|",  # noqa: S106
    )
    ours = BeamDecoder(units, WORDS, WordDecodeConfig(lm=arpa, beam=20))
    torch.manual_seed(0)
    logits = 2 * torch.randn(20, 30, len(units))
    closed = torch.full((20, 1, len(units)), -1e4)  # the boundary that ends every text
    closed[..., units.encode(" ")[0]] = 0
    emissions = torch.cat([logits.log_softmax(-1), closed], 1)
    expected = [" ".join(found[0].words) for found in theirs(emissions)]
    assert ours.decode(logits, all_of(logits)) == expected
    assert len(set(expected)) > 5


def test_a_model_without_any_word_of_the_search_is_refused(arpa: str, tmp_path: Path) -> None:
    lower = write_arpa(tmp_path / "lower.arpa", [text.lower() for text in SENTENCES])
    message = "lower.arpa: lists none of the 5 words .*, for example 'A'; expected them in the sam"
    with pytest.raises(ConfigError, match=message) as caught:
        BeamDecoder(Characters(SENTENCES), WORDS, WordDecodeConfig(lm=lower))
    assert "\n" not in str(caught.value)
    stressed = write_arpa(tmp_path / "phones.arpa", ["AE1 AH0", "AH0 AE1"])
    for lm in (stressed, arpa):  # an entry for the blank is none of the model's
        with pytest.raises(ConfigError, match="none of the 2 words or phonemes .* 'AE'"):
            BeamDecoder(Phonemes(["AE AH"]), [], DecodeConfig(lm=lm))


def test_words_that_the_model_lacks_are_counted_once(
    arpa: str, caplog: pytest.LogCaptureFixture
) -> None:
    units = Characters(SENTENCES)
    BeamDecoder(units, WORDS, WordDecodeConfig(lm=arpa))
    BeamDecoder(Phonemes(["THE CAT"]), [], DecodeConfig(lm=arpa))
    assert not caplog.records
    decoder = BeamDecoder(units, [*WORDS, "TEA", "TEASE"], WordDecodeConfig(lm=arpa))
    decoder.decode(say(units, "TEA"), torch.tensor([9]))
    (record,) = caplog.records
    assert record.getMessage().endswith(
        "words.arpa: 2 of 7 words or phonemes to search are not in it and score as <unk>, for "
        "example 'TEA'"
    )


def test_tuning_takes_the_weights_with_the_fewest_errors(arpa: str) -> None:
    units = Characters(SENTENCES)
    logits = say(units, "THE HAT SAT", sure=3.0)  # what the model finds unlikely, and is right
    wanted = ["THE HAT SAT"]
    strong = BeamDecoder(units, WORDS, WordDecodeConfig(lm=arpa, lm_weight=30.0))
    assert strong.decode(logits, all_of(logits)) != wanted
    found = tuned(strong, [(logits, all_of(logits))], lambda texts: float(texts != wanted))
    assert found.decode(logits, all_of(logits)) == wanted
    assert found.config.lm_weight in {0.5, 1.0, 2.0, 3.0}


@pytest.mark.parametrize(
    ("units", "config", "message"),
    [
        (Characters(SENTENCES), {"lm": "none.arpa"}, "none.arpa: no such file"),
        (Characters(SENTENCES), {"lm": __file__}, "not a KenLM model"),
        (Characters(["ONE"]), {"lm": __file__}, "boundary between them"),
        (Pieces.train(SENTENCES, 11), {"lm": __file__}, "expected units=characters"),
        (
            Characters(SENTENCES),
            {"lm": __file__, "lexicon": "none.txt"},
            "decode.lexicon=none.txt: cannot be read",
        ),
        (Characters(["Q Q"]), {"lm": __file__}, "none of its 5 words can be spelled"),
    ],
)
def test_what_cannot_be_searched_says_why(
    units: Units, config: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        BeamDecoder(units, WORDS, WordDecodeConfig(**config))
