"""The result of a training: hypotheses on test of each seed, and how the heads were chosen."""

from dataclasses import dataclass, field

from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.results.record_parts import Trial


@dataclass(frozen=True, kw_only=True)
class WithLM:
    """Hypotheses on test by beam search with a language model, and the weights that it had."""

    hypotheses: list[str]
    weights: dict[str, float]


@dataclass(kw_only=True)
class Decoded:
    """Hypotheses on test by the heads of one seed, fold after fold."""

    seed: int
    hypotheses: list[str] = field(default_factory=list)
    tuned: dict[str, float] = field(default_factory=dict)  # by Task.tune()
    variants: dict[str, list[str]] = field(default_factory=dict)  # by Task.variants()
    with_lm: WithLM | None = None


@dataclass(frozen=True, kw_only=True)
class OneLayer:
    """The best heads on one hidden state: their mean score on valid, and hypotheses by seed."""

    layer: int
    valid: float
    decoded: list[Decoded]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The result of a training: hypotheses on test of each seed, and how the heads were chosen.

    `decoded` and `cuts` are of the test split, in one order. `counts` are of what was left out.
    `layers` are of heads on single hidden states, the chosen one among them.
    """

    decoded: list[Decoded]
    cuts: list[Cut]
    trials: list[Trial]
    layer_weights: list[float]
    layer_norms: list[float] = field(default_factory=list)  # of the hidden states
    counts: dict[str, int] = field(default_factory=dict)
    layers: list[OneLayer] = field(default_factory=list)
