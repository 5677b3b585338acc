"""Connectionist temporal classification, shared by asr and phoneme: loss and decoding.

Shapes: B batch, T frames, V outputs.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mt4ssl_bench.downstream.config import CTCConfig, DecodeConfig, TaskConfig
from mt4ssl_bench.downstream.heads.beam_search import BeamDecoder, tuned
from mt4ssl_bench.downstream.heads.units import BLANK, Units, restore
from mt4ssl_bench.downstream.task import Answers, Task, WithLM
from mt4ssl_bench.results.metrics.error_rates import error_counts, rate


class CTCTask(Task):
    """A task whose targets are unit sequences; subclasses say which text, units and head."""

    Config: ClassVar[type[CTCConfig]] = CTCConfig
    config: CTCConfig

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        self.units: Units | None = None
        self.decoder: BeamDecoder | None = None
        self.words: list[str] = []  # of the training split, where units spell words

    @abstractmethod
    def build_units(self, texts: Sequence[str]) -> Units:
        """Return the units of the training texts."""

    def fit_units(self, cuts: Sequence[Any]) -> None:
        """See Task.fit_units."""
        self.units = self.build_units([self.reference(cut) for cut in cuts])
        # a wrong language model must show before any training
        self.decoder = self.beam(self.config.decode) if self.config.decode.lm else None

    @property
    def fitted(self) -> Units:
        """Return the units, which fit_units() has made."""
        assert self.units is not None, "fit_units() comes first"
        return self.units

    @property
    def outputs(self) -> int:
        """See Task.outputs."""
        return len(self.fitted)

    def state(self) -> dict[str, Any]:
        """See Task.state."""
        return {**self.fitted.state(), "words": self.words}

    def restore(self, state: dict[str, Any]) -> None:
        """See Task.restore."""
        self.units, self.words = restore(state), list(state["words"])

    def beam(self, config: DecodeConfig) -> BeamDecoder:
        """Return the search with a language model; raises ConfigError where there can be none."""
        return BeamDecoder(self.fitted, self.words, config)

    def answer_with_lm(self, logits: Callable[[str], Iterable[Answers]]) -> WithLM | None:
        """Return the test split's hypotheses with the recipe's language model, tuned on valid where
        it says so.

        `logits` gives a split's (cuts, logits, lengths), by role, in the order of its references.
        """
        decoder = self.decoder
        if decoder is None:
            return None
        if self.config.decode.tune:
            kept = list(logits("valid"))
            members = [cut for cuts, _, _ in kept for cut in cuts]
            pairs = [(values.cpu(), lengths) for _, values, lengths in kept]
            references = self.references(members)
            decoder = tuned(decoder, pairs, lambda texts: self.measure(references, texts))
        texts = [
            text
            for _, values, lengths in logits("test")
            for text in decoder.decode(values, lengths)
        ]
        return WithLM(hypotheses=texts, weights=decoder.weights)

    def target(self, cut: Any) -> Tensor:  # noqa: ANN401 - lhotse ships no types
        """Return the ids of the cut's units (S,)."""
        return torch.tensor(self.fitted.encode(self.reference(cut)), dtype=torch.long)

    def knows(self, unit: str) -> bool:
        """See Task.knows."""
        return bool(self.fitted.encode(unit))

    def frames_needed(self, cut: Any) -> int:  # noqa: ANN401
        """Return one frame per unit, and one for the blank that must part two equal ones (Graves
        2006, section 3.1).
        """
        target = self.target(cut)
        return len(target) + int((target[1:] == target[:-1]).sum())

    def loss(self, logits: Tensor, lengths: Tensor, targets: list[Tensor]) -> Tensor:
        """Return CTC of each row (B,), divided by its target length.

        Impossible alignments count zero.
        """
        log_probs = logits.float().log_softmax(-1).transpose(0, 1)  # (T, B, V)
        sizes = torch.tensor([len(target) for target in targets])
        ids = torch.cat(targets).to(logits.device)
        found = F.ctc_loss(
            log_probs, ids, lengths, sizes, blank=BLANK, reduction="none", zero_infinity=True
        )
        return found / sizes.clamp(min=1).to(found.device)

    def summed_loss(self, logits: Tensor, lengths: Tensor, targets: list[Tensor]) -> Tensor:
        """Return CTC's sum over utterances, not divided by target lengths (fairseq's)."""
        rows = self.loss(logits, lengths, targets)
        return (rows * torch.tensor([len(target) for target in targets], device=rows.device)).sum()

    def decode(self, logits: Tensor, lengths: Tensor) -> list[str]:
        """Return the best path of each row: argmax, repeats collapsed, blanks dropped."""
        best = logits.argmax(-1).cpu()
        paths = [
            row[:length].unique_consecutive()
            for row, length in zip(best, lengths.tolist(), strict=True)
        ]
        return [self.fitted.decode(path[path != BLANK].tolist()) for path in paths]

    def measure(self, references: list[str], hypotheses: list[str]) -> float:
        """See Task.measure; the main metric of every CTC task counts what spaces separate."""
        return rate(error_counts(references, hypotheses, by="words"))
