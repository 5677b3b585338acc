"""Beam search with an n-gram language model, over words of a lexicon or over units.

Shapes: B batch, T frames, V outputs.
"""

import copy
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from mt4ssl_bench.downstream.config import DecodeConfig, WordDecodeConfig
from mt4ssl_bench.downstream.heads.flashlight import (
    NO_UNIT,
    build_search,
    load_lm,
    read_words,
    spell,
)
from mt4ssl_bench.downstream.heads.units import BLANK, Characters, Phonemes, Units
from mt4ssl_bench.errors import ConfigError

LOGGER = logging.getLogger(__name__)
# what decode.tune tries on valid, each with each
LM_WEIGHTS, WORD_SCORES = (0.5, 1.0, 2.0, 3.0), (-1.0, 0.0, 1.0)
NEVER = -1e4  # log probability of what the added last frame does not allow


class BeamDecoder:
    """Beam search with a language model of the words that units spell, or of phonemes.

    Raises:
        ConfigError: If there is no [lm] extra, no model, or no word that can be spelled and
            is in the model.
    """

    def __init__(self, units: Units, words: Sequence[str], config: DecodeConfig) -> None:
        self.units, self.config = units, config
        self._boundary, self._trie = BLANK, None
        if isinstance(units, Phonemes):  # position is id: the model's words are the units
            self._entries = [NO_UNIT, *units.symbols]
            self._lm = load_lm(config.lm, self._entries)
        elif (
            isinstance(units, Characters)
            and " " in units.symbols
            and isinstance(config, WordDecodeConfig)
        ):
            self._boundary = units.encode(" ")[0]
            self._entries = _spelled(words, units, config)
            self._lm = load_lm(config.lm, self._entries)
            spellings = [units.encode(word) for word in self._entries]
            self._trie = spell(spellings, self._lm, outputs=len(units), boundary=self._boundary)
        else:
            raise ConfigError(
                "decode.lm: needs units that spell words with a boundary between them; expected "
                "units=characters, and texts of several words"
            )

    @property
    def weights(self) -> dict[str, float]:
        """The values that tuned() chooses, by key."""
        names = ("lm_weight", "word_score")
        return {name: getattr(self.config, name) for name in names if hasattr(self.config, name)}

    def using(self, config: DecodeConfig) -> "BeamDecoder":
        """Return the search with the beam and the weights of `config`; model and words stay."""
        other = copy.copy(self)
        other.config = config
        return other

    def decode(self, logits: Tensor, lengths: Tensor) -> list[str]:
        """Return the best hypothesis of each row of logits (B, T, V)."""
        size, boundary = len(self.units), self._boundary
        search = build_search(self.config, self._lm, self._trie, outputs=size, boundary=boundary)
        texts = []
        log_probs = logits.float().log_softmax(-1).cpu().numpy()
        for row, length in zip(log_probs, lengths.tolist(), strict=True):
            emissions = row[:length]  # (T, V)
            if self._trie is not None:
                # every spelling ends with the boundary and texts end without it: one more frame
                last = np.full((1, size), NEVER, dtype=np.float32)
                last[0, boundary] = 0.0
                emissions = np.concatenate([emissions, last])
            emissions = np.ascontiguousarray(emissions)
            best = search.decode(emissions.ctypes.data, *emissions.shape)[0]
            if self._trie is None:
                path = [token for token, _ in itertools.groupby(best.tokens) if token != BLANK]
                texts.append(self.units.decode(path))
            else:
                texts.append(" ".join(self._entries[word] for word in best.words if word >= 0))
        return texts


def tuned(
    decoder: BeamDecoder,
    batches: Iterable[tuple[Tensor, Tensor]],
    errors: Callable[[list[str]], float],
) -> BeamDecoder:
    """Return the decoder with the weights that make the errors smallest.

    `batches` are logits (B, T, V) and lengths (B,); `errors` judges the hypotheses of all of them.
    """
    batches = list(batches)

    def loss(config: DecodeConfig) -> float:
        tried = decoder.using(config)
        return errors([text for batch in batches for text in tried.decode(*batch)])

    return decoder.using(min(_grid(decoder.config), key=loss))


def _grid(config: DecodeConfig) -> Iterator[DecodeConfig]:
    for weight in LM_WEIGHTS:
        if isinstance(config, WordDecodeConfig):
            for score in WORD_SCORES:
                yield replace(config, lm_weight=weight, word_score=score)
        else:
            yield replace(config, lm_weight=weight)


def _spelled(words: Sequence[str], units: Characters, config: WordDecodeConfig) -> list[str]:
    """Return the words of the lexicon, or else of the training text, that the units can spell."""
    words = read_words(Path(config.lexicon)) if config.lexicon else words
    known = [word for word in words if all(character in units for character in word)]
    if not known:
        raise ConfigError(
            f"decode.lexicon={config.lexicon}: none of its {len(words)} words can be spelled with "
            "the characters of the training text"
        )
    if lacking := sorted({*words}.difference(known)):
        LOGGER.warning(
            "decode.lexicon=%s: %d of %d words left out, for example %r; the training text lacks "
            "some of their characters",
            *(config.lexicon, len(lacking), len(words), lacking[0]),
        )
    return known
