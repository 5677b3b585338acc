"""flashlight-text with KenLM, the [lm] extra: its language models, word lists and searches."""

import logging
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from mt4ssl_bench.data.lexicon import plain_apostrophes
from mt4ssl_bench.downstream.config import DecodeConfig, WordDecodeConfig
from mt4ssl_bench.downstream.heads.units import BLANK
from mt4ssl_bench.errors import ConfigError, lines
from mt4ssl_bench.wheels import missing

LOGGER = logging.getLogger(__name__)
NO_UNIT = "<blank>"  # an entry that is no word of the language model
UNLISTED = "\0"  # in no language model: has the score of what the model lacks
NO_WHEEL = (3, 13)  # the first Python without a wheel of flashlight-text


def check_decoder(config: DecodeConfig) -> None:
    """Raise ConfigError where the recipe's language model cannot be used on this machine."""
    if config.lm:
        flashlight()


def flashlight() -> SimpleNamespace:
    """Return flashlight-text's names in one place; the binding has no types.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        from flashlight.lib.text import decoder
        from flashlight.lib.text.decoder.kenlm import KenLM
        from flashlight.lib.text.dictionary import Dictionary
    except ImportError as error:
        raise ConfigError(_no_decoder(sys.version_info[:2], error)) from None
    names = {name: getattr(decoder, name) for name in dir(decoder) if not name.startswith("_")}
    return SimpleNamespace(**names, KenLM=KenLM, Dictionary=Dictionary)


def load_lm(file: str, entries: Sequence[str]) -> SimpleNamespace:
    """Return the KenLM model of a file, whose words are numbered by `entries`.

    Raises:
        ConfigError: If there is no such file, it is no model, or it lists none of the entries.
    """
    library = flashlight()
    if not Path(file).is_file():
        raise ConfigError(f"decode.lm={file}: no such file; expected a KenLM model, ARPA or binary")
    dictionary = library.Dictionary()
    for entry in (*entries, UNLISTED):
        dictionary.add_entry(entry)
    try:
        model: SimpleNamespace = library.KenLM(file, dictionary)
    except RuntimeError as error:
        reason = lines(error)[-1][:120]
        raise ConfigError(f"decode.lm={file}: not a KenLM model ({reason})") from None
    _check_listed(file, model, entries)
    return model


def _check_listed(file: str, lm: SimpleNamespace, entries: Sequence[str]) -> None:
    """Warn of entries that the model scores as <unk>; raise ConfigError if these are all."""
    *scores, unlisted = _scores(lm, len(entries) + 1)
    words = {word: score for word, score in zip(entries, scores, strict=True) if word != NO_UNIT}
    lacking = [word for word, score in words.items() if score == unlisted]
    if not lacking:
        return
    if len(lacking) == len(words):
        raise ConfigError(
            f"decode.lm={file}: lists none of the {len(words)} words or phonemes to search, for "
            f"example '{lacking[0]}'; expected them in the same spelling (upper or lower case, "
            "stress)"
        )
    LOGGER.warning(
        "decode.lm=%s: %d of %d words or phonemes to search are not in it and score as <unk>, for "
        "example %r",
        *(file, len(lacking), len(words), lacking[0]),
    )


def _scores(lm: SimpleNamespace, count: int) -> list[float]:
    """Return the scores of the first `count` entries as the first word of a text."""
    start = lm.start(False)  # noqa: FBT003 - the binding's signature
    return [lm.score(start, number)[1] for number in range(count)]


def read_words(file: Path) -> list[str]:
    """Return the first field of every line, written as transcripts are (see tasks.asr).

    As in lexicons, WORD(2) is another pronunciation, and lines that begin with ;;; are comments.

    Raises:
        ConfigError: If the file cannot be read.
    """
    try:
        rows = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"decode.lexicon={file}: cannot be read ({error})") from None
    fields = [row.split()[0] for row in rows if row.strip() and not row.startswith(";;;")]
    return sorted({plain_apostrophes(re.sub(r"\(\d+\)$", "", field)).upper() for field in fields})


def spell(
    spellings: Sequence[Sequence[int]], lm: SimpleNamespace, *, outputs: int, boundary: int
) -> SimpleNamespace:
    """Return the prefix tree of words, each node with the best score below it.

    Args:
        spellings: The ids of every word, numbered as in `lm`.
        lm: From load_lm().
        outputs: The number of ids.
        boundary: The id that ends every word.
    """
    library = flashlight()
    trie: SimpleNamespace = library.Trie(outputs, boundary)
    scores = _scores(lm, len(spellings))
    for number, (ids, score) in enumerate(zip(spellings, scores, strict=True)):
        trie.insert([*ids, boundary], number, score)
    trie.smear(library.SmearingMode.MAX)
    return trie


def build_search(
    config: DecodeConfig,
    lm: SimpleNamespace,
    trie: SimpleNamespace | None,
    *,
    outputs: int,
    boundary: int,
) -> SimpleNamespace:
    """Return flashlight's decoder.

    Args:
        config: Beam and weights.
        lm: From load_lm().
        trie: From spell(), to search over words; without one it is over outputs.
        outputs: The number of ids.
        boundary: The id that ends every word.
    """
    library = flashlight()
    options = {
        "beam_size": config.beam,
        "beam_size_token": outputs,
        "beam_threshold": config.threshold,
        "lm_weight": config.lm_weight,
        "sil_score": 0.0,
        "log_add": False,
        "criterion_type": library.CriterionType.CTC,
    }
    search: SimpleNamespace
    if trie is not None and isinstance(config, WordDecodeConfig):
        settings = library.LexiconDecoderOptions(
            **options, word_score=config.word_score, unk_score=-math.inf
        )
        unknown, transitions, by_word = -1, list[float](), False  # no <unk>, no acoustic model
        search = library.LexiconDecoder(
            settings, trie, lm, boundary, BLANK, unknown, transitions, by_word
        )
    else:
        settings = library.LexiconFreeDecoderOptions(**options)
        search = library.LexiconFreeDecoder(settings, lm, boundary, BLANK, [])
    return search


def _no_decoder(python: tuple[int, int], error: ImportError) -> str:
    if python >= NO_WHEEL:
        return (
            "decode.lm: needs flashlight-text, which has no wheel for Python "
            f"{python[0]}.{python[1]}; expected Python 3.11 or 3.12; make an environment with "
            "one of them, install 'mt4ssl-bench[lm]' there and rerun the same command"
        )
    return missing("decode.lm", "lm", error)
