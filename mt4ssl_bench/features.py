"""The Upstream protocol, all that downstream knows of a model, and the ways to get one by name.

Shapes: L hidden states (encoder input and every layer), B batch, N samples, T frames, D dimension.
"""

import contextlib
import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from mt4ssl_bench.checkpoint import fingerprint
from mt4ssl_bench.errors import UpstreamError
from mt4ssl_bench.registry import Registry, hint

LOGGER = logging.getLogger(__name__)


class Features(NamedTuple):
    """What an upstream makes of a batch: `layers` (L, B, T, D) and the real frames `lengths` (B,)."""

    layers: Tensor
    lengths: Tensor


@runtime_checkable
class Upstream(Protocol):
    """A frozen model; `stride` is in samples per frame, `fingerprint` a digest of the weights."""

    name: str
    num_layers: int
    dim: int
    stride: int
    fingerprint: str
    parameters: int

    def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
        """Return the features of zero-padded 16 kHz waveforms (B, N) of `lengths` (B,), without gradient."""
        ...


class Loader(Protocol):
    """Builds an upstream from what stands after its prefix."""

    def __call__(self, argument: str, *, device: str) -> Upstream:
        """Return the upstream; raises BenchError when it cannot be built."""
        ...


# how a name is read: "prefix:argument", a path to one of our runs, else an s3prl name
LOADERS: Registry[Loader] = Registry(
    "kind of upstream",
    {
        "checkpoint": "mt4ssl_bench.upstream.expert:load_checkpoint",
        "random": "mt4ssl_bench.upstream.expert:load_random",
        "s3prl": "mt4ssl_bench.features:load_s3prl",
    },
)


def load_upstream(name: str, *, device: str = "cpu") -> Upstream:
    """Return the upstream called `name`: a run folder or checkpoint, random:<recipe>, or any s3prl upstream.

    Raises UpstreamError, ConfigError or CheckpointError for a name that leads nowhere.
    """
    kind, _, argument = name.partition(":")
    if kind == "random":
        return LOADERS.get("random")(argument, device=device)
    if Path(name).exists() or (not argument and (name.endswith(".pt") or "/" in name)):
        return LOADERS.get("checkpoint")(name, device=device)
    return LOADERS.get("s3prl")(name, device=device)


def pick_device(name: str = "auto") -> str:
    """Return a torch device name; "auto" takes cuda, then mps, then cpu. Raises UpstreamError for a wrong one."""
    if name != "auto":
        try:
            return str(torch.zeros(1, device=name).device)
        except (RuntimeError, AssertionError) as error:
            raise UpstreamError(f"--device {name}: not available here ({str(error).splitlines()[0]})") from None
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def s3prl_names() -> list[str]:
    """Return every upstream name of the installed s3prl; its hub takes some seconds to import."""
    names: list[str] = _hub().options(only_registered_ckpt=False)
    return sorted(names)


class S3PRLUpstream:
    """An s3prl upstream behind our protocol: its hidden states, stacked."""

    def __init__(self, name: str, device: str) -> None:
        hub = _hub()
        model, _, argument = name.partition(":")
        if model not in hub.options(only_registered_ckpt=False):
            raise UpstreamError(
                f"unknown upstream '{model}': no such file or folder, and not in s3prl's hub; "
                f"{hint(model, [*hub.options(only_registered_ckpt=False), 'random:mt4ssl_tiny'])}"
            )
        try:
            with _quiet():
                built = getattr(hub, model)(ckpt=argument) if argument else getattr(hub, model)()
        except Exception as error:  # noqa: BLE001 - each of 196 hub entries fails in its own way
            raise UpstreamError(f"upstream '{name}': s3prl could not build it ({_first_line(error)})") from None
        self.model = built.to(device).eval()
        self.name, self.device = name, device
        self.stride = int(self.model.get_downsample_rates("hidden_states"))
        state = {k: v for k, v in self.model.state_dict().items() if isinstance(v, Tensor)}
        self.parameters = sum(p.numel() for p in self.model.parameters())
        # models without weights (fbank, mel) differ by their code and settings alone: the name stands for those
        identity = torch.frombuffer(bytearray(f"{name} {self.stride}".encode()), dtype=torch.uint8)
        self.fingerprint = fingerprint(state if self.parameters else {**state, "name": identity})
        probe = self.extract(torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0)), torch.tensor([16_000]))
        self.num_layers, self.dim = probe.layers.shape[0], probe.layers.shape[-1]

    @torch.no_grad()
    def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
        """See Upstream.extract; raises UpstreamError where the model's layers differ in shape."""
        waves = [wave[:length].to(self.device) for wave, length in zip(waveforms, lengths.tolist(), strict=True)]
        hidden = self.model(waves)["hidden_states"]
        if len({tuple(h.shape) for h in hidden}) != 1:
            raise UpstreamError(f"upstream '{self.name}': its hidden states differ in shape; one size is needed")
        layers = torch.stack(list(hidden))  # (L, B, T, D)
        # s3prl's own rule (s3prl/nn/upstream.py): round(n / stride) frames, never more than there are
        frames = torch.tensor([round(n / self.stride) for n in lengths.tolist()]).clamp(1, layers.shape[2])
        return Features(layers, frames)


def load_s3prl(argument: str, *, device: str) -> Upstream:
    """Return the s3prl upstream called `argument` ("hubert", "fbank", "hubert_local:path")."""
    return S3PRLUpstream(argument, device)


def _hub() -> Any:  # noqa: ANN401 - s3prl ships no types
    """Import s3prl's hub, which prints and takes some seconds: only when an s3prl upstream is asked for."""
    try:
        with _quiet():
            import s3prl.hub as hub
    except Exception as error:  # noqa: BLE001 - whatever its imports raise
        raise UpstreamError(
            f"s3prl's hub cannot be imported ({_first_line(error)}); the maintained fork can: pip install espnet-s3prl"
        ) from None
    return hub


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what s3prl prints."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
