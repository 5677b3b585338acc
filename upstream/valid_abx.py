"""Phone or word ABX of the student's layers at validation, on a few tokens of the valid split."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mt4ssl_bench.abx.items import (
    Token,
    phone_tokens,
    single_words,
    speakers_in,
    turns_in,
    word_tokens,
)
from mt4ssl_bench.abx.plan import AbxConfig, Mode, plan
from mt4ssl_bench.abx.score import score_layers
from mt4ssl_bench.abx.spans import Grid, Spans, find_frames
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import Cut, text_of
from mt4ssl_bench.data.draw import draw
from mt4ssl_bench.data.frame_grid import STRIDE, frame_count
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.upstream.checkpoints.encoder_adapter import hidden_states
from mt4ssl_bench.upstream.model import MT4SSL

LOGGER = logging.getLogger(__name__)
SPEAKERS, REPEATS = 5, 4  # at most: speakers, and tokens of a speaker and a phone or word


@dataclass(frozen=True)
class ValidAbx:
    """The tokens with the audio (N,) of their utterances; call with a model for its scores."""

    spans: Spans
    waves: Mapping[str, Tensor]
    config: AbxConfig

    @torch.no_grad()
    def __call__(self, model: MT4SSL, device: str) -> dict[str, float]:
        """Return the error in per cent by mode and layer: {"abx_within_0": ..., ...}."""

        def features(name: str) -> Tensor:
            layers, _ = hidden_states(model, [self.waves[name].to(device)])
            return torch.stack(layers)[:, 0].float().cpu()  # (L, T, D)

        tables = score_layers(self.spans, features, self.config, device=device)
        return {
            f"abx_{mode}_{layer}": 100 * float(error)
            for mode, table in tables.items()
            for layer, error in enumerate(table.errors())
        }


def open_valid_abx(
    corpora: Sequence[Corpus], split: str, count: int, stride: int = STRIDE
) -> ValidAbx:
    """Choose tokens, at most `count`, and read their audio; the same in every run.

    They are phones of the first corpus with time-aligned ones, in any context; or words of the
    first corpus whose utterances are single words.

    Raises:
        CorpusError: If there is none, or its split has one speaker or no triplet.
    """
    asked = f"abx_tokens={count}"
    corpus = next((each for each in corpora if "turns:phones" in each.info.fields), None)
    cuts = list((corpus or corpora[0]).cuts(split))
    if corpus:
        tokens, dropped = phone_tokens(turns_in(cuts, "phones"), speakers_in(cuts), "phoneme")
    else:
        corpus, cuts = _of_single_words(corpora, split, asked)
        words = {cut.id: text_of(cut).strip() for cut in cuts}
        alignment = single_words(words, {cut.id: cut.duration for cut in cuts})
        tokens, dropped = word_tokens(alignment, speakers_in(cuts))
    where = f"{asked}: split '{split}' of {corpus.info.name}"
    chosen = _choose(tokens, count)
    if len(speakers := {token.group for token in chosen}) < 2:
        named = f"one speaker ({speakers.pop()})" if speakers else f"no token ({dropped})"
        raise CorpusError(f"{where}: has {named}; expected tokens of two speakers, or abx_tokens=0")
    by_id = {cut.id: cut for cut in cuts}
    waves = {name: audio.read(by_id[name]) for name in sorted({t.utterance for t in chosen})}
    counts = {name: frame_count(len(wave)) * STRIDE // stride for name, wave in waves.items()}
    try:
        spans = find_frames(chosen, counts, Grid(stride))
        config = _config(spans)
    except CorpusError as error:
        raise CorpusError(f"{where}: {error}") from None
    seconds = sum(map(len, waves.values())) / audio.RATE
    LOGGER.info(
        "%s: ABX of %d tokens, %.0f s of audio at each validation", where, len(chosen), seconds
    )
    return ValidAbx(spans, {name: torch.from_numpy(wave) for name, wave in waves.items()}, config)


def _of_single_words(corpora: Sequence[Corpus], split: str, asked: str) -> tuple[Corpus, list[Cut]]:
    for corpus in corpora:
        cuts = list(corpus.cuts(split))
        if all(len(text_of(cut).split()) == 1 for cut in cuts):
            return corpus, cuts
    names = ", ".join(corpus.info.name for corpus in corpora)
    raise CorpusError(
        f"{asked}: {names}: split '{split}' has neither time-aligned phones nor utterances of one "
        "word; expected a corpus with an alignment (prepare --alignment), or abx_tokens=0"
    )


def _choose(tokens: Sequence[Token], count: int) -> list[Token]:
    """Return at most `count` tokens of few utterances, several of each speaker and category."""
    speakers = sorted({token.group for token in tokens}, key=draw)[:SPEAKERS]
    tokens = [token for token in tokens if token.group in speakers]
    categories = Counter(token.category for token in tokens).most_common(
        max(count // max(len(speakers) * REPEATS, 1), 2)
    )
    kept, taken = {name for name, _ in categories}, Counter[tuple[str, str]]()
    chosen: list[Token] = []
    for token in sorted(tokens, key=lambda token: (draw(token.utterance), token)):
        place = token.category, token.group
        if token.category in kept and taken[place] < REPEATS and len(chosen) < count:
            taken[place] += 1
            chosen.append(token)
    return chosen


def _config(spans: Spans) -> AbxConfig:
    """Return the settings; without "within" where no speaker repeats a word."""
    modes: tuple[Mode, ...] = ("within", "across")
    try:
        plan(spans.tokens, AbxConfig(modes=modes, context="any"))
    except CorpusError:
        modes = ("across",)
        plan(spans.tokens, AbxConfig(modes=modes, context="any"))
    return AbxConfig(modes=modes, context="any")
