"""Tasks that predict sequences of units: loss and decoding by CTC.

Shapes: B batch, T frames, V outputs, S units.
"""

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.device import moved
from mt4ssl_bench.downstream.config import CTCConfig, DecodeConfig, TaskConfig
from mt4ssl_bench.downstream.heads.beam_search import BeamDecoder, tuned
from mt4ssl_bench.downstream.heads.flashlight import check_decoder
from mt4ssl_bench.downstream.heads.units import BLANK, Units, restore
from mt4ssl_bench.downstream.task import Logits, Task
from mt4ssl_bench.downstream.training.trained import WithLM
from mt4ssl_bench.settings import Json

LOGGER = logging.getLogger(__name__)
_LACKING: set[str] = set()  # kinds of devices whose torch has no CTC


def ctc(log_probs: Tensor, ids: Tensor, lengths: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """Return CTC of each row (B,); 0 if no alignment exists.

    Where torch has no CTC for a device, as some versions for MPS, the CPU computes it.

    Args:
        log_probs: (T, B, V).
        ids: Targets of all rows, one after the other.
        lengths: Frames of each row; on the host, so that nothing waits for the device.
        sizes: Units of each row.
    """
    kind = log_probs.device.type
    if kind not in _LACKING:
        try:
            return _ctc(log_probs, ids.to(log_probs.device), lengths, sizes)
        except NotImplementedError:
            _LACKING.add(kind)
            LOGGER.warning("CTC: this torch has no kernel for %s; computing it on the CPU", kind)
    return _ctc(log_probs.cpu(), ids.cpu(), lengths, sizes).to(log_probs.device)


def _ctc(log_probs: Tensor, ids: Tensor, lengths: Sequence[int], sizes: Sequence[int]) -> Tensor:
    return F.ctc_loss(
        log_probs,
        ids,
        torch.tensor(lengths),
        torch.tensor(sizes),
        blank=BLANK,
        reduction="none",
        zero_infinity=True,
    )


class CTCTask(Task):
    """A task whose targets are unit sequences; subclasses choose text, units and head."""

    Config: ClassVar[type[CTCConfig]] = CTCConfig
    config: CTCConfig

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        self.units: Units | None = None
        self.decoder: BeamDecoder | None = None
        self.words: list[str] = []  # of the training split, where units spell words

    def check(self) -> None:
        """See Task.check: the decoder of language models."""
        check_decoder(self.config.decode)

    @abstractmethod
    def build_units(self, texts: Sequence[str]) -> Units:
        """Return the units of the training texts."""

    def fit_units(self, cuts: Sequence[Cut]) -> None:
        """See Task.fit_units."""
        self.units = self.build_units([self.reference(cut) for cut in cuts])
        # a wrong language model must show before training
        self.decoder = self.beam(self.config.decode) if self.config.decode.lm else None

    @property
    def fitted(self) -> Units:
        """The units that fit_units() took."""
        assert self.units is not None, "fit_units() comes first"
        return self.units

    @property
    def outputs(self) -> int:
        """See Task.outputs."""
        return len(self.fitted)

    def state(self) -> dict[str, Json]:
        """See Task.state."""
        return {**self.fitted.state(), "words": self.words}

    def restore(self, state: Mapping[str, Json]) -> None:
        """See Task.restore."""
        self.units, self.words = restore(state), list(cast("list[str]", state["words"]))

    def beam(self, config: DecodeConfig) -> BeamDecoder:
        """Return the beam search with a language model; raises ConfigError if there can be none."""
        return BeamDecoder(self.fitted, self.words, config)

    def answer_with_lm(self, logits: Callable[[str], Iterable[Logits]]) -> WithLM | None:
        """See Task.answer_with_lm; decode.tune chooses the weights on valid."""
        decoder = self.decoder
        if decoder is None:
            return None
        if self.config.decode.tune:
            batches = [(cuts, values.cpu(), lengths) for cuts, values, lengths in logits("valid")]
            cuts = [cut for batch, _, _ in batches for cut in batch]
            errors = partial(self.measure, cuts)
            decoder = tuned(decoder, [(values, lengths) for _, values, lengths in batches], errors)
        texts: list[str] = []
        for _, values, lengths in logits("test"):
            texts += decoder.decode(values, lengths)
        return WithLM(hypotheses=texts, weights=decoder.weights)

    def target(self, cut: Cut) -> Tensor:
        """Return the ids of the cut's units (S,)."""
        return torch.tensor(self.fitted.encode(self.reference(cut)), dtype=torch.long)

    def written(self, cut: Cut) -> str:
        """See Task.written."""
        return self.fitted.decode(self.fitted.encode(self.reference(cut)))

    def knows(self, unit: str) -> bool:
        """See Task.knows."""
        return unit in self.fitted

    def frames_needed(self, cut: Cut) -> int:
        """Return one frame per unit, and one between two equal ones (Graves 2006, section 3.1)."""
        target = self.target(cut)
        return len(target) + int((target[1:] == target[:-1]).sum())

    def loss(self, logits: Tensor, lengths: Tensor, targets: list[Tensor]) -> Tensor:
        """Return CTC of each row (B,) divided by its target length; 0 if no alignment exists."""
        log_probs = logits.float().log_softmax(-1).transpose(0, 1)  # (T, B, V)
        sizes = [len(target) for target in targets]
        losses = ctc(log_probs, torch.cat(targets), lengths.tolist(), sizes)
        return losses / moved(torch.tensor(sizes).clamp(min=1), losses.device)

    def summed_loss(self, logits: Tensor, lengths: Tensor, targets: list[Tensor]) -> Tensor:
        """Return CTC summed over utterances, not divided by target lengths, as in fairseq."""
        rows = self.loss(logits, lengths, targets)
        sizes = torch.tensor([len(target) for target in targets])
        return (rows * moved(sizes, rows.device)).sum()

    def decode(self, logits: Tensor, lengths: Tensor) -> list[str]:
        """Return the best path of each row: argmax, repetitions collapsed, blanks dropped."""
        texts = []
        for row, length in zip(logits.argmax(-1).cpu(), lengths.tolist(), strict=True):
            path = row[:length].unique_consecutive()
            texts.append(self.fitted.decode(path[path != BLANK].tolist()))
        return texts
