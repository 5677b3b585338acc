"""Phone ABX: how well each layer discriminates phones, without training.

Tokens come from the corpus's time-aligned phones ("turns:phones"), or from an item file.
"""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor

from mt4ssl_bench.abx.answers import ACROSS, WITHIN, answers_of
from mt4ssl_bench.abx.distance import Distance
from mt4ssl_bench.abx.intervals import Over
from mt4ssl_bench.abx.items import (
    Dropped,
    Token,
    phone_tokens,
    plain_items,
    read_items,
    speakers_in,
    turns_in,
)
from mt4ssl_bench.abx.plan import AbxConfig, Mode
from mt4ssl_bench.abx.score import score_layers
from mt4ssl_bench.abx.spans import Grid, Slice, find_frames
from mt4ssl_bench.config import NOT_NEGATIVE, Bounds
from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.downstream.config import BaseConfig
from mt4ssl_bench.downstream.task import LayerTask, Scored
from mt4ssl_bench.errors import ConfigError, CorpusError
from mt4ssl_bench.features.file import FeatureSet
from mt4ssl_bench.results.metrics import Metric
from mt4ssl_bench.settings import file_digest

LOGGER = logging.getLogger(__name__)
MODES = {"within": WITHIN, "across": ACROSS}
SAMPLES = 5  # of tokens, over which the spread of a score is recorded


@dataclass(frozen=True, kw_only=True)
class TripletConfig(BaseConfig):
    """The keys of all ABX tasks; see AbxConfig."""

    # within: all three tokens are of one speaker; across: x is of another speaker
    modes: tuple[str, ...] = ("within", "across")
    context: Literal["same", "any"] = "same"  # of the three tokens: the neighboring phones
    slice: Slice = "exact"  # librilight: one frame less per token, as Libri-Light's program
    distance: Distance = "angular"  # between frames
    pooled: bool = False  # compare means over frames, instead of dynamic time warping
    max_tokens: int = 0  # number of tokens to sample of a category, group and context; 0: all
    max_groups: int = 0  # number of groups (speakers) of x to sample in mode across; 0: all
    seed: int = 0  # of what max_tokens and max_groups sample
    items: str = ""  # path of an item file as of Libri-Light, instead of the corpus's alignment

    BOUNDS: ClassVar[Bounds] = {NOT_NEGATIVE: "max_tokens max_groups seed"}

    def files(self) -> dict[str, str]:
        """See BaseConfig.files."""
        return {"items": file_digest(self.items, "items")}

    @property
    def triplets(self) -> AbxConfig:
        """The settings of the triplets; raises ConfigError."""
        if len(set(self.modes)) < len(self.modes):
            raise ConfigError(f"modes={list(self.modes)}: expected each mode once")
        return AbxConfig(
            modes=cast("tuple[Mode, ...]", self.modes),
            context=self.context,
            distance=self.distance,
            pooled=self.pooled,
            max_tokens=self.max_tokens,
            max_groups=self.max_groups,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True)
class PhoneConfig(TripletConfig):
    """The keys of phone ABX."""

    # what a token spans: the phone and its neighbors, or only the phone
    span: Literal["triphone", "phoneme"] = "triphone"


class ABX(LayerTask):
    """Phone ABX within and across speakers, as ZeroSpeech and Libri-Light define it."""

    name: ClassVar[str] = "abx"
    metrics: ClassVar[tuple[str | Metric, ...]] = ("abx_within", "abx_across")
    reads: ClassVar[tuple[str, ...]] = ("speaker", "turns:phones")
    Config: ClassVar[type[TripletConfig]] = PhoneConfig
    config: TripletConfig
    over: ClassVar[Over] = "groups"  # where speakers are; see answers_of()

    def __init__(self, config: TripletConfig) -> None:
        super().__init__(config)
        self.triplets = config.triplets

    @classmethod
    def fields(cls, config: BaseConfig) -> tuple[str, ...]:
        """See BaseTask.fields: an item file brings speakers and times with it."""
        assert isinstance(config, TripletConfig)
        return () if config.items else cls.reads

    def check(self) -> None:
        """See BaseTask.check: the item file."""
        if self.config.items:
            _items(Path(self.config.items))

    @property
    def all_metrics(self) -> list[Metric]:
        """See BaseTask.all_metrics: of the modes that are asked for."""
        return [MODES[mode].under(self.config.slice) for mode in self.config.modes]

    def tokens(self, cuts: Sequence[Cut]) -> tuple[list[Token], Dropped]:
        """Return the tokens of cuts, and the numbers of what gives none."""
        if not self.config.items:
            return self.aligned(cuts)
        known, dropped = {cut.id for cut in cuts}, Dropped()
        tokens = []
        for token in _items(Path(self.config.items)):
            if token.utterance in known:
                tokens.append(token)
            else:
                dropped.add("tokens of utterances that are not in the split", token.utterance)
        if not tokens:
            raise CorpusError(f"items={self.config.items}: {dropped}; expected the corpus's ids")
        return tokens, dropped

    def aligned(self, cuts: Sequence[Cut]) -> tuple[list[Token], Dropped]:
        """Return the tokens of the corpus's alignment."""
        assert isinstance(self.config, PhoneConfig)
        return phone_tokens(turns_in(cuts, "phones"), speakers_in(cuts), self.config.span)

    def resampled(self) -> list[LayerTask]:
        """See LayerTask.resampled: of max_tokens and max_groups, at the seeds after `seed`."""
        config = self.config
        if not config.max_tokens and not config.max_groups:
            return []
        seeds = range(config.seed + 1, config.seed + SAMPLES)
        return [type(self)(dataclasses.replace(config, seed=seed)) for seed in seeds]

    def score(self, cuts: Sequence[Cut], features: FeatureSet, stride: int, device: str) -> Scored:
        """See LayerTask.score."""
        tokens, dropped = self.tokens(cuts)
        dropped.log(self.name)
        stored = features.identity != "live"  # whose counts are exact
        frames = {
            name: features.count(name) if stored else features.get(name).shape[1]
            for name in sorted({token.utterance for token in tokens})
        }
        try:
            spans = find_frames(tokens, frames, Grid(stride), self.config.slice)
        except CorpusError as error:
            raise CorpusError(f"{error}; {dropped}" if dropped.counts else str(error)) from None
        spans.dropped.log(self.name)
        files = _item_file(self.name, spans.tokens)  # before the distances, which take long

        def hidden(name: str) -> Tensor:
            return torch.from_numpy(features.get(name))

        tables = score_layers(spans, hidden, self.triplets, device=device)
        counts = {
            f"{mode}_{name}": number
            for mode, table in tables.items()
            for name, number in dataclasses.asdict(table.counts).items()
        }
        for reason, number in {**dropped.counts, **spans.dropped.counts}.items():
            counts[reason.replace(" ", "_")] = number
        layers = range(features.layers)
        return Scored(
            answers=[answers_of(tables, layer, self.over) for layer in layers],
            counts=counts,
            files=files,
        )


def _item_file(task: str, tokens: Sequence[Token]) -> dict[str, str]:
    """Return the item file by suffix; none, and a warning, for names that it cannot hold."""
    try:
        return {".item": plain_items(tokens)}
    except CorpusError as error:
        _warn(f"{task}: {error}")
        return {}


@lru_cache
def _warn(message: str) -> None:
    """Log a warning once: all samples of the tokens have the same names."""
    LOGGER.warning("%s", message)


@lru_cache(maxsize=1)
def _items(path: Path) -> list[Token]:
    return read_items(path)


TASK = ABX
