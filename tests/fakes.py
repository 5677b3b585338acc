"""Small encoders with a real computation, which keep the Upstream protocol or break one rule of it.

Frames are windows of 320 samples. Child processes of tests import this file, too.
"""

import time
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from mt4ssl_bench.downstream.heads.labels import LabelTask
from mt4ssl_bench.encoders.hidden_states import PROBE
from mt4ssl_bench.encoders.protocol import Features
from mt4ssl_bench.features.file import FeatureSet
from mt4ssl_bench.features.forward_pass import Values


def windows(waveforms: Tensor) -> Tensor:
    """Cut waveforms (B, N) into frames (B, T, 320)."""
    return waveforms.unfold(1, 320, 320)


class Encoder:
    """What every fake states of itself: one layer of one value per frame."""

    name, fingerprint, parameters = "fake", "f00d", 0
    num_layers, dim, stride = 1, 1, 320
    former: tuple[str, ...] = ()
    insufficient: tuple[str, ...] = ()


class Energy(Encoder):
    """The mean square of each frame."""

    def __init__(self, name: str = "energy") -> None:
        self.name, self.fingerprint = name, f"{name}0123456789"

    def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
        return Features(windows(waveforms).square().mean(-1, keepdim=True)[None], lengths // 320)


class Spectrum(Encoder):
    """Log magnitudes of each frame, and the same once more, halved: tones can be read from it."""

    num_layers, dim = 2, 32

    def __init__(
        self,
        name: str = "spectrum",
        fingerprint: str = "",
        *,
        former: tuple[str, ...] = (),
        broken: bool = False,
    ) -> None:
        self.name, self.fingerprint = name, fingerprint or f"fingerprint of {name}"
        self.former, self.broken, self.calls = former, broken, 0

    def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
        self.calls += 1
        magnitudes = torch.fft.rfft(windows(waveforms)).abs()[..., :64]
        x = (magnitudes.unflatten(-1, (32, 2)).mean(-1) + 0.1).log()
        if self.broken:
            x = x * float("nan")
        return Features(torch.stack([x, x / 2]), lengths // 320)


class Mirrored(Spectrum):
    """A spectrum whose second layer is upside down: its layers cannot stand for each other.

    It has a product, which autocast rounds and fp32 does not.
    """

    def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
        (x, half), lengths = super().extract(waveforms, lengths)
        x = x @ torch.eye(self.dim)
        return Features(torch.stack([x, half.flip(-1).to(x.dtype)]), lengths)


class Moments(Encoder):
    """Mean, largest and smallest sample of each frame, and the same once more, doubled.

    Args:
        fingerprint: Its identity.
        fail_at: The pass at which it is interrupted.
        spoil: A value that its first frame gets.
        pause: Seconds that each pass takes.

    Attributes:
        calls: Its passes, but for those that probe what padding does to it.
        utterances: How many waveforms they had.
    """

    num_layers, dim = 2, 3

    def __init__(
        self, fingerprint: str = "f00d", *, fail_at: int = 0, spoil: float = 0.0, pause: float = 0.0
    ) -> None:
        self.fingerprint, self.fail_at, self.spoil = fingerprint, fail_at, spoil
        self.pause, self.calls, self.utterances = pause, 0, 0

    def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
        if not set(lengths.tolist()) <= set(PROBE):
            self.calls += 1
            self.utterances += len(waveforms)
            if self.calls == self.fail_at:
                raise KeyboardInterrupt
        time.sleep(self.pause)
        frames = windows(waveforms)
        first = torch.stack([frames.mean(-1), frames.amax(-1), frames.amin(-1)], dim=-1)
        if self.spoil:
            first[0, 0, 0] = self.spoil
        return Features(torch.stack([first, 2 * first]), lengths // 320)


class Nosy(Encoder):
    """Frames that depend on the length of their batch, as a norm over padded time makes them."""

    name, fingerprint = "nosy", "n"

    def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
        frames = windows(waveforms).mean(-1, keepdim=True)
        return Features((frames / frames.std(1, keepdim=True))[None], lengths // 320)


class Liar(Nosy):
    """It states another dimension than its features have."""

    dim, fingerprint = 5, "liar"


class Picky(Nosy):
    """It runs out of memory on more than one utterance, and on every one of `unwanted` samples."""

    name, fingerprint = "picky", "picky"

    def __init__(self, unwanted: int = 0) -> None:
        self.unwanted = unwanted

    def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
        if lengths[0] not in PROBE and (len(lengths) > 1 or int(lengths[0]) == self.unwanted):
            raise RuntimeError("out of memory\nand much more")
        return Features(torch.ones(1, len(lengths), waveforms.shape[1] // 320, 1), lengths // 320)


class Small(Nosy):
    """It runs out of memory on more than `room` utterances, and gives each its own samples."""

    name, fingerprint = "small", "small"

    def __init__(self, room: int) -> None:
        self.room, self.batches = room, list[int]()

    def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
        if len(lengths) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        self.batches.append(len(lengths))
        return Features(windows(waveforms).mean(-1, keepdim=True)[None], lengths // 320)


class Noise(FeatureSet):
    """Features as the store gives them, drawn from each utterance's name; `reads` counts readings.

    A pooled task reads one of two means of each.
    """

    layers, dim = 3, 12

    def __init__(self, *, pooled: bool) -> None:
        self.pooled, self.reads = pooled, 0

    def rows(self, names: Sequence[str], crops: Sequence[int] | None = None) -> list[Values]:
        self.reads += 1
        rows = [self._drawn(name) for name in names]
        chosen = crops or [None] * len(rows)
        return [
            row if crop is None else row[:, crop : crop + 1]
            for row, crop in zip(rows, chosen, strict=True)
        ]

    def count(self, name: str) -> int:
        return 2 if self.pooled else 40 + sum(map(ord, name)) % 30

    def _drawn(self, name: str) -> Values:
        generator = torch.Generator().manual_seed(sum(map(ord, name)))
        shape = self.count(name), self.layers, self.dim
        return torch.randn(shape, generator=generator).transpose(0, 1).numpy()


# a user's file: tests write it, and change one thing in it
USER_CLASS = '''
import torch
from torch import nn

class Energy:
    """Log energy of frames of 320 samples, through a fixed and a learnt map."""
    num_layers, dim, stride = 2, 4, 320

    def __init__(self, device="cpu"):
        self.device = device
        self.net = nn.Linear(320, 4).to(device)
        with torch.no_grad():
            self.net.weight.fill_(0.01); self.net.bias.zero_()

    def extract(self, waveforms, lengths):
        frames = waveforms[:, : waveforms.shape[1] // 320 * 320].unflatten(1, (-1, 320)).to(self.device)
        energy = frames.square().mean(-1, keepdim=True).add(1e-6).log().expand(-1, -1, 4)
        return torch.stack([energy, self.net(frames)]), lengths // 320
'''


class Folded(LabelTask):
    """A task of one label, each of whose folds is tested in turn."""

    name: ClassVar[str] = "folded"
    labels: ClassVar[tuple[str, ...]] = ("mood",)
    folds: ClassVar[str] = "fold"
