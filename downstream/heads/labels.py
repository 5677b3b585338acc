"""Pooled classification: one or several labels of an utterance, from the mean over its frames.

Shapes: B batch, K labels, V outputs: one block for each label, one output for each of its values.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mt4ssl_bench.config import AT_LEAST_1, NOT_NEGATIVE, Bounds
from mt4ssl_bench.data.cut import Cut, field_of
from mt4ssl_bench.downstream.config import TaskConfig
from mt4ssl_bench.downstream.heads.linear import PooledHead
from mt4ssl_bench.downstream.task import Task
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.features.crops import Crops
from mt4ssl_bench.results.metrics import Metric
from mt4ssl_bench.settings import FROZEN, Json

JOINT = "|"  # between the labels of an answer, and in none of several
HELD_OUT = 0.2  # of the training utterances of a fold, for validation


@dataclass(frozen=True, kw_only=True)
class LabelConfig(TaskConfig):
    """The keys of tasks that classify whole utterances."""

    crop_seconds: float = 0.0  # length of the random crops in training; 0: whole utterances
    crops: int = field(default=1, metadata=FROZEN)  # number of crops that are stored per utterance
    test_crop_seconds: float = 0.0  # the same in validation and test; 0: whole utterances

    BOUNDS: ClassVar[Bounds] = {AT_LEAST_1: "crops", NOT_NEGATIVE: "crop_seconds test_crop_seconds"}

    def crops_of(self, role: str) -> Crops:
        """See TaskConfig.crops_of."""
        if role == "train":
            return Crops(seconds=self.crop_seconds, count=self.crops, seed=self.seeds[0])
        return Crops(seconds=self.test_crop_seconds, count=1, seed=self.seeds[0])


class LabelTask(Task):
    """SUPERB's classification head, linear up to its mean over time: stored means are exact.

    An answer is right if all its labels are. With `folds` (see Task), each is tested by a head that
    is trained on the others, and the score is the mean of their accuracies.
    """

    labels: ClassVar[tuple[str, ...]]  # their names, or "speaker"
    metrics: ClassVar[tuple[str | Metric, ...]] = ("acc",)
    pooled: ClassVar[bool] = True
    Config: ClassVar[type[TaskConfig]] = LabelConfig
    values: dict[str, list[str]]  # of each label, in the training split

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "labels" in vars(cls) and "reads" not in vars(cls):
            cls.reads = (*cls.labels, *([cls.folds] if cls.folds else []))
        if cls.folds and "metrics" not in vars(cls):
            cls.metrics = ("fold_acc",)

    @property
    def names(self) -> tuple[str, ...]:
        """The labels; a task whose config names them overrides this and fields()."""
        return self.labels

    def unlearnable(self, cuts: Iterable[Cut]) -> str:
        """See Task.unlearnable."""
        cuts = list(cuts)
        for name in self.fields(self.config):
            if len(values := {field_of(cut, name) for cut in cuts}) < 2:
                return f"needs two {name}s, and has only '{''.join(values)}' in the utterances"
        return ""

    def fit_units(self, cuts: Sequence[Cut]) -> None:
        """See Task.fit_units: the values of each label.

        Raises:
            CorpusError: If a value could be taken for those of two labels.
        """
        self.values = {name: sorted({field_of(cut, name) for cut in cuts}) for name in self.names}
        for name, values in self.values.items() if len(self.names) > 1 else ():
            if joint := [value for value in values if JOINT in value]:
                raise CorpusError(
                    f"task '{self.name}': {len(joint)} values of label '{name}' contain '{JOINT}', "
                    f"for example '{joint[0]}'; it separates the labels of an answer; expected "
                    "values without it; rename them and prepare the corpus again"
                )
        self._targets = dict[str, Tensor]()

    @property
    def outputs(self) -> int:
        """See Task.outputs."""
        return sum(map(len, self.values.values()))

    def state(self) -> dict[str, Json]:
        """Return the values by the plural of each label: {"speakers": [...]}."""
        return {f"{name}s": values for name, values in self.values.items()}

    def restore(self, state: Mapping[str, Json]) -> None:
        """See Task.restore."""
        self.values = {name: list(cast("list[str]", state[f"{name}s"])) for name in self.names}
        self._targets = {}

    def head(self, num_layers: int, dim: int) -> nn.Module:
        """Return a PooledHead."""
        return PooledHead(num_layers, dim, self.outputs, self.config.head)

    def reference(self, cut: Cut) -> str:
        """Return the cut's labels, joined."""
        return JOINT.join(field_of(cut, name) for name in self.names)

    def units_in(self, cut: Cut) -> list[str]:
        """Return the cut's labels."""
        return [self._unit(name, field_of(cut, name)) for name in self.names]

    def knows(self, unit: str) -> bool:
        """See Task.knows."""
        return any(unit == self._unit(k, value) for k, v in self.values.items() for value in v)

    def _unit(self, name: str, value: str) -> str:
        return value if len(self.names) == 1 else f"{name}={value}"

    def target(self, cut: Cut) -> Tensor:
        """Return the numbers of the cut's labels (K,), made once: every update reads them."""
        if cut.id not in self._targets:
            values = [self.values[name].index(field_of(cut, name)) for name in self.names]
            self._targets[cut.id] = torch.tensor(values)
        return self._targets[cut.id]

    def loss(self, logits: Tensor, lengths: Tensor, targets: list[Tensor]) -> Tensor:
        """Return the sum of the labels' cross entropies for each row (B,)."""
        ids = torch.stack(targets).to(logits.device)  # (B, K)
        losses = [
            F.cross_entropy(block.float(), number, reduction="none")
            for block, number in zip(self._blocks(logits), ids.unbind(1), strict=True)
        ]
        return torch.stack(losses).sum(0)

    def decode(self, logits: Tensor, lengths: Tensor) -> list[str]:
        """Return the most likely value of each label, joined, for each row."""
        best = torch.stack([block.argmax(-1) for block in self._blocks(logits)], dim=1)  # (B, K)
        return [
            JOINT.join(values[n] for values, n in zip(self.values.values(), row, strict=True))
            for row in best.tolist()
        ]

    def _blocks(self, logits: Tensor) -> Sequence[Tensor]:
        return torch.split(logits, [len(values) for values in self.values.values()], dim=-1)

    def hold_out(self, cuts: Sequence[Cut]) -> tuple[list[Cut], list[Cut]]:
        """See Task.hold_out: as s3prl for IEMOCAP, a random fifth, speakers on both sides."""
        order = torch.randperm(len(cuts), generator=torch.Generator().manual_seed(0)).tolist()
        count = int((1 - HELD_OUT) * len(cuts))
        return [cuts[i] for i in order[:count]], [cuts[i] for i in order[count:]]
