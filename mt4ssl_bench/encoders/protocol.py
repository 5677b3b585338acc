"""The Upstream protocol: all that an evaluation needs of a speech encoder.

Shapes: L hidden states (encoder input and every layer), B batch, N samples, T frames, D dimension.
"""

from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor


class Features(NamedTuple):
    """Hidden states of a batch: `layers` (L, B, T, D), of which `lengths` (B,) frames are real."""

    layers: Tensor
    lengths: Tensor


@runtime_checkable
class Upstream(Protocol):
    """A frozen speech encoder.

    Attributes:
        name: For people.
        num_layers: L.
        dim: D.
        stride: Samples per frame.
        fingerprint: Identifies the model: it changes whenever the features can.
        parameters: Number of weights.
        former: Optional tuple of str. Fingerprints of earlier schemes (identity.py) that determined
            this very model: what is stored under them is used.
        origin: Optional mapping of str. Where its weights come from, for records (origin.py).
        insufficient: Optional tuple of str. Fingerprints of earlier schemes that other models had,
            too: what is stored under them is named in the log and computed again.
    """

    name: str
    num_layers: int
    dim: int
    stride: int
    fingerprint: str
    parameters: int

    def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
        """Return the features of zero-padded 16 kHz waveforms (B, N) of `lengths` (B,) samples.

        They have no gradient.
        """
        ...
