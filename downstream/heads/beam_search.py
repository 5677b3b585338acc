"""Beam search with an n-gram language model, over words of a lexicon or over units.

The search is flashlight-text's, the model KenLM's.

Shapes: B batch, T frames, V outputs.
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mt4ssl_bench.downstream.config import DecodeConfig, WordDecodeConfig
from mt4ssl_bench.downstream.heads.flashlight import flashlight, load_lm, read_words
from mt4ssl_bench.downstream.heads.units import BLANK, Characters, Phonemes, Units
from mt4ssl_bench.errors import ConfigError

GRID = {  # what decode.tune tries on valid, each with each
    "lm_weight": (0.5, 1.0, 2.0, 3.0),
    "word_score": (-1.0, 0.0, 1.0),
}
NEVER = -1e4  # log probability of what the added last frame does not allow


class BeamDecoder:
    """Beam search with a language model of the words that units spell, or of phonemes.

    Raises:
        ConfigError: If there is no [lm] extra, no model, or no word that can be spelled.
    """

    def __init__(self, units: Units, words: Sequence[str], config: DecodeConfig) -> None:
        self.units, self._library = units, flashlight()
        self._boundary, self._trie = BLANK, None
        if isinstance(units, Phonemes):  # position is id: the model's words are the units
            self._entries = ["<blank>", *units.symbols]
            self._lm = load_lm(self._library, config.lm, self._entries)
        elif (
            isinstance(units, Characters)
            and " " in units.symbols
            and isinstance(config, WordDecodeConfig)
        ):
            self._boundary = units.encode(" ")[0]
            self._entries = _spelled(words, units, config)
            self._lm = load_lm(self._library, config.lm, self._entries)
            self._trie = self._spell()
        else:
            raise ConfigError(
                "decode.lm: needs units that spell words with a boundary between them; expected "
                "units=characters, and texts of several words"
            )
        self.use(config)

    def use(self, config: DecodeConfig) -> None:
        """Search with the beam and the weights of `config` from here on."""
        self.config = config
        self._decoder = self._build()

    @property
    def weights(self) -> dict[str, float]:
        """The values that GRID has others for, by key."""
        return {name: getattr(self.config, name) for name in GRID if hasattr(self.config, name)}

    def weighted(self, weights: Mapping[str, float]) -> "BeamDecoder":
        """Return the same search with other weights; model and lexicon are shared."""
        config = replace(self.config, lm_weight=weights["lm_weight"])
        if isinstance(config, WordDecodeConfig):
            config = replace(config, word_score=weights["word_score"])
        other = copy.copy(self)
        other.use(config)
        return other

    def decode(self, logits: Tensor, lengths: Tensor) -> list[str]:
        """Return the best hypothesis of each row of logits (B, T, V)."""
        log_probs = logits.float().log_softmax(-1).cpu().numpy()
        return [
            self._search(row[:length])
            for row, length in zip(log_probs, lengths.tolist(), strict=True)
        ]

    def _search(self, emissions: NDArray[np.float32]) -> str:
        """Return the best hypothesis of emissions (T, V)."""
        if self._trie is not None:
            # every spelling ends with the boundary and texts end without it: one more frame
            last = np.full((1, emissions.shape[1]), NEVER, dtype=np.float32)
            last[0, self._boundary] = 0.0
            emissions = np.concatenate([emissions, last])
        emissions = np.ascontiguousarray(emissions, dtype=np.float32)
        best = self._decoder.decode(emissions.ctypes.data, *emissions.shape)[0]
        if self._trie is None:
            collapsed = [token for token, _ in itertools.groupby(best.tokens) if token != BLANK]
            return self.units.decode(collapsed)
        return " ".join(self._entries[word] for word in best.words if word >= 0)

    def _spell(self) -> SimpleNamespace:
        """Return the prefix tree of every word's units, each node with the best score below it."""
        trie: SimpleNamespace = self._library.Trie(len(self.units), self._boundary)
        start = self._lm.start(False)  # noqa: FBT003 - the binding's signature
        for number, word in enumerate(self._entries):
            _, score = self._lm.score(start, number)
            trie.insert([*self.units.encode(word), self._boundary], number, score)
        trie.smear(self._library.SmearingMode.MAX)
        return trie

    def _build(self) -> SimpleNamespace:
        """Return flashlight's decoder with the beam and weights of the config."""
        library, config = self._library, self.config
        options = {
            "beam_size": config.beam,
            "beam_size_token": len(self.units),
            "beam_threshold": config.threshold,
            "lm_weight": config.lm_weight,
            "sil_score": 0.0,
            "log_add": False,
            "criterion_type": library.CriterionType.CTC,
        }
        decoder: SimpleNamespace
        if isinstance(config, WordDecodeConfig):
            settings = library.LexiconDecoderOptions(
                **options, word_score=config.word_score, unk_score=-math.inf
            )
            tables = (self._trie, self._lm, self._boundary, BLANK)
            unknown, transitions, by_word = -1, list[float](), False  # no <unk>, no acoustic model
            decoder = library.LexiconDecoder(settings, *tables, unknown, transitions, by_word)
        else:
            settings = library.LexiconFreeDecoderOptions(**options)
            decoder = library.LexiconFreeDecoder(settings, self._lm, self._boundary, BLANK, [])
        return decoder


def tuned(
    decoder: BeamDecoder,
    batches: Iterable[tuple[Tensor, Tensor]],
    errors: Callable[[list[str]], float],
) -> BeamDecoder:
    """Return the decoder with the weights of GRID that make the errors smallest.

    Args:
        decoder: With any weights.
        batches: Logits (B, T, V) and lengths (B,).
        errors: From the hypotheses of all batches to a number.
    """
    stored, names = list(batches), list(decoder.weights)

    def loss(values: tuple[float, ...]) -> float:
        tried = decoder.weighted(dict(zip(names, values, strict=True)))
        return errors([text for batch in stored for text in tried.decode(*batch)])

    best = min(itertools.product(*(GRID[name] for name in names)), key=loss)
    return decoder.weighted(dict(zip(names, best, strict=True)))


def _spelled(words: Sequence[str], units: Characters, config: WordDecodeConfig) -> list[str]:
    """Return the words of the lexicon, or else of the training text, that the units can spell."""
    words = read_words(Path(config.lexicon)) if config.lexicon else words
    known = [word for word in words if all(character in units.symbols for character in word)]
    if not known:
        raise ConfigError(
            f"decode.lexicon={config.lexicon}: none of its {len(words)} words can be spelled with "
            "the characters of the training text"
        )
    return known
