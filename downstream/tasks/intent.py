"""Intent classification: several labels of an utterance, which are right together."""

from dataclasses import dataclass
from typing import ClassVar

from mt4ssl_bench.config import Bound, Bounds
from mt4ssl_bench.downstream.config import BaseConfig
from mt4ssl_bench.downstream.heads.labels import LabelConfig, LabelTask

NAMES: Bound = (
    "one or several different labels of the corpus",
    lambda names: all(names) and 0 < len(names) == len(set(names)),
)


@dataclass(frozen=True, kw_only=True)
class IntentConfig(LabelConfig):
    """The keys of intent classification."""

    # labels of the corpus that are predicted together
    labels: tuple[str, ...] = ("action", "object", "location")

    BOUNDS: ClassVar[Bounds] = {NAMES: "labels"}


class Intent(LabelTask):
    """SUPERB's IC: several labels of an utterance, right only together."""

    name: ClassVar[str] = "intent"
    superb: ClassVar[str] = "IC"
    full_hours: ClassVar[float] = 10.0  # Fluent Speech Commands: 15 h
    labels: ClassVar[tuple[str, ...]] = IntentConfig.labels
    Config: ClassVar[type[IntentConfig]] = IntentConfig
    config: IntentConfig

    @classmethod
    def fields(cls, config: BaseConfig) -> tuple[str, ...]:
        """See Task.fields: the labels that the config names."""
        return config.labels if isinstance(config, IntentConfig) else cls.reads

    @property
    def names(self) -> tuple[str, ...]:
        """See LabelTask.names."""
        return self.config.labels


TASK = Intent
