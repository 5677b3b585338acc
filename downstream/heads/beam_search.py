"""Beam search with an n-gram language model: flashlight's decoder and KenLM, words by a lexicon or
units alone.

Shapes: B batch, T frames, V outputs.
"""

import copy
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from torch import Tensor

from mt4ssl_bench.downstream.config import DecodeConfig, WordDecodeConfig
from mt4ssl_bench.downstream.heads.units import BLANK, Characters, Phonemes, Units
from mt4ssl_bench.errors import ConfigError, lines

NO_WHEEL = (3, 13)  # the first Python without a wheel of flashlight-text
GRID = {  # what decode.tune tries on valid, each with each
    "lm_weight": (0.5, 1.0, 2.0, 3.0),
    "word_score": (-1.0, 0.0, 1.0),
}
NEVER = -1e4  # log probability of what the added last frame does not allow


class BeamDecoder:
    """A language model over the words that `units` spell, or over the units themselves where they
    are phonemes.

    Raises ConfigError for what cannot be searched: no [lm] extra, a missing model, a lexicon
    without a usable word.
    """

    def __init__(self, units: Units, words: Sequence[str], config: DecodeConfig) -> None:
        flashlight = _flashlight()
        self.units: Units = units
        self.config = config
        self._lib = flashlight
        self._boundary = BLANK
        if isinstance(units, Phonemes):
            self._entries = [
                "<blank>",
                *units.symbols,
            ]  # position is id: the model's words are the units
        elif (
            isinstance(units, Characters)
            and " " in units.symbols
            and isinstance(config, WordDecodeConfig)
        ):
            self._boundary = units.encode(" ")[0]
            self._entries = _spelled(
                read_words(Path(config.lexicon)) if config.lexicon else words, units, config
            )
        else:
            raise ConfigError(
                "decode.lm: needs units that spell words with a boundary between them; expected "
                "units=characters, and texts of several words"
            )
        dictionary = flashlight.Dictionary()
        for entry in self._entries:
            dictionary.add_entry(entry)
        self._lm = _load(flashlight, config.lm, dictionary)
        self._trie = None if isinstance(units, Phonemes) else self._spell(flashlight, units)
        self.use(config)

    def use(self, config: DecodeConfig) -> None:
        """Search with the beam and the weights of `config` from here on."""
        self.config = config
        self._decoder = self._build()

    @property
    def weights(self) -> dict[str, float]:
        """Return the values that GRID has others for, by key."""
        return {name: getattr(self.config, name) for name in GRID if hasattr(self.config, name)}

    def weighted(self, weights: Mapping[str, float]) -> "BeamDecoder":
        """Return the same search with other weights; the model and the lexicon are shared."""
        other = copy.copy(self)
        other.use(replace(self.config, **cast("dict[str, Any]", weights)))
        return other

    def decode(self, logits: Tensor, lengths: Tensor) -> list[str]:
        """Return the best hypothesis of each row of logits (B, T, V)."""
        log_probs = logits.float().log_softmax(-1).cpu().numpy()
        return [
            self._search(row[:length])
            for row, length in zip(log_probs, lengths.tolist(), strict=True)
        ]

    def _search(self, emissions: Any) -> str:  # noqa: ANN401 - a numpy array (T, V)
        if (
            self._trie is not None
        ):  # texts end without the boundary that every spelling ends with: one more frame
            last = np.full((1, emissions.shape[1]), NEVER, dtype=np.float32)
            last[0, self._boundary] = 0.0
            emissions = np.concatenate([emissions, last])
        emissions = np.ascontiguousarray(emissions, dtype=np.float32)
        best = self._decoder.decode(emissions.ctypes.data, *emissions.shape)[0]
        if self._trie is None:
            return self.units.decode(
                [token for token, _ in itertools.groupby(best.tokens) if token != BLANK]
            )
        return " ".join(self._entries[word] for word in best.words if word >= 0)

    # the binding has no types
    def _spell(self, flashlight: Any, units: Units) -> Any:  # noqa: ANN401
        """Return the prefix tree of every word's units, each node with the best score below it."""
        trie = flashlight.Trie(len(units), self._boundary)
        start = self._lm.start(False)  # noqa: FBT003 - the binding's signature
        for number, word in enumerate(self._entries):
            _, score = self._lm.score(start, number)
            trie.insert([*units.encode(word), self._boundary], number, score)
        trie.smear(flashlight.SmearingMode.MAX)
        return trie

    def _build(self) -> Any:  # noqa: ANN401
        lib, config = self._lib, self.config
        options = {
            "beam_size": config.beam,
            "beam_size_token": len(self.units),
            "beam_threshold": config.threshold,
            "lm_weight": config.lm_weight,
            "sil_score": 0.0,
            "log_add": False,
            "criterion_type": lib.CriterionType.CTC,
        }
        if not isinstance(config, WordDecodeConfig):
            return lib.LexiconFreeDecoder(
                lib.LexiconFreeDecoderOptions(**options), self._lm, self._boundary, BLANK, []
            )
        settings = lib.LexiconDecoderOptions(
            **options, word_score=config.word_score, unk_score=-math.inf
        )
        no_word, no_scores, by_word = -1, list[float](), False  # no <unk>, no acoustic transitions
        return lib.LexiconDecoder(
            settings, self._trie, self._lm, self._boundary, BLANK, no_word, no_scores, by_word
        )


def tuned(
    decoder: BeamDecoder,
    batches: Iterable[tuple[Tensor, Tensor]],
    errors: Callable[[list[str]], float],
) -> BeamDecoder:
    """Return the decoder with the weights of the grid that make `errors` of the batches' hypotheses
    smallest.
    """
    kept, names = list(batches), list(decoder.weights)

    def loss(values: tuple[float, ...]) -> float:
        tried = decoder.weighted(dict(zip(names, values, strict=True)))
        return errors([text for logits, lengths in kept for text in tried.decode(logits, lengths)])

    best = min(itertools.product(*(GRID[name] for name in names)), key=loss)
    return decoder.weighted(dict(zip(names, best, strict=True)))


def read_words(file: Path) -> list[str]:
    """Return the first field of every line, in upper case.

    Raises ConfigError when the file cannot be read.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"decode.lexicon={file}: cannot be read ({error})") from None
    return sorted({line.split()[0].upper() for line in lines if line.strip()})


def _spelled(words: Sequence[str], units: Characters, config: WordDecodeConfig) -> list[str]:
    known = [word for word in words if all(character in units.symbols for character in word)]
    if not known:
        raise ConfigError(
            f"decode.lexicon={config.lexicon}: none of its {len(words)} words can be spelled with "
            "the characters of the training text"
        )
    return known


def _load(flashlight: Any, lm: str, dictionary: Any) -> Any:  # noqa: ANN401
    if not Path(lm).is_file():
        raise ConfigError(f"decode.lm={lm}: no such file; expected a KenLM model, ARPA or binary")
    try:
        return flashlight.KenLM(lm, dictionary)
    except RuntimeError as error:
        raise ConfigError(f"decode.lm={lm}: not a KenLM model ({lines(error)[-1][:120]})") from None


def _flashlight() -> Any:  # noqa: ANN401
    """Return flashlight-text's names in one place."""
    try:
        from flashlight.lib.text import decoder
        from flashlight.lib.text.decoder.kenlm import KenLM
        from flashlight.lib.text.dictionary import Dictionary
    except ImportError as error:
        raise ConfigError(_no_decoder(sys.version_info[:2], error)) from None
    names = {name: getattr(decoder, name) for name in dir(decoder) if not name.startswith("_")}
    return SimpleNamespace(**names, KenLM=KenLM, Dictionary=Dictionary)


def _no_decoder(python: tuple[int, int], error: ImportError) -> str:
    """Return what to do where flashlight-text cannot be imported."""
    if python >= NO_WHEEL:
        return (
            "decode.lm: needs flashlight-text, which has no wheel for Python "
            f"{python[0]}.{python[1]}; expected Python 3.11 or 3.12; make an environment with "
            "one of them, install 'mt4ssl-bench[lm]' there and rerun the same command"
        )
    return f"decode.lm: needs flashlight-text ({error}); pip install 'mt4ssl-bench[lm]'"


def check_decoder(config: DecodeConfig) -> None:
    """Raise ConfigError where the recipe's language model cannot be used on this machine at all."""
    if config.lm:
        _flashlight()
