"""Features that k-means clusters: MFCC, or one layer of any upstream, at 50 Hz."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mt4ssl_bench.clustering.config import OfflineConfig
from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.data.frame_grid import STRIDE
from mt4ssl_bench.encoders.load import load_upstream
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import ConfigError, CorpusError
from mt4ssl_bench.features.forward_pass import Pass
from mt4ssl_bench.features.mfcc import MFCC
from mt4ssl_bench.features.units import normalized


class FeatureSource:
    """Frames (T, F) at 50 Hz of cuts, from MFCC or from one layer of an upstream."""

    def __init__(self, config: OfflineConfig, device: str = "cpu") -> None:
        self.config = config
        self.upstream: Upstream = (
            MFCC() if config.features == "mfcc" else load_upstream(config.features, device=device)
        )
        if self.upstream.stride != STRIDE:
            raise CorpusError(
                f"targets.offline.features={config.features}: one frame per {self.upstream.stride} "
                f"samples; labels need one per {STRIDE}"
            )
        layers, layer = self.upstream.num_layers, 0 if config.features == "mfcc" else config.layer
        if not -layers <= layer < layers:
            raise ConfigError(
                f"targets.offline.layer={layer}: '{self.upstream.name}' has {layers} hidden states"
            )
        self.layer = layer % layers
        self.unreadable: dict[str, str] = {}  # utterance id -> reason
        self.name = self._name(self.upstream.fingerprint)
        self.former = [self._name(mark) for mark in getattr(self.upstream, "former", ())]

    def _name(self, fingerprint: str) -> str:
        return "mfcc" if self.config.features == "mfcc" else f"{fingerprint}:{self.layer}"

    def __call__(self, cuts: Sequence[Cut]) -> Iterator[list[tuple[str, Tensor]]]:
        """Yield batches of (utterance id, frames); unreadable audio is left out, as in training."""
        for batch in Pass(self.upstream)(cuts, unreadable=self.unreadable, layer=self.layer):
            frames = [(name, torch.from_numpy(values)) for name, values in batch]
            yield [(name, normalized(values, self.config.normalize)) for name, values in frames]
