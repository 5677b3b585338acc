"""Effects on audio before an upstream."""

from typing import Protocol

from mt4ssl_bench.data.audio import Samples


class Effect(Protocol):
    """A change of the audio; `key` names it in stores."""

    key: str

    def __call__(self, samples: Samples) -> Samples:
        """Return the changed samples (N,)."""
        ...
