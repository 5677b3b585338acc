"""Kinds of encoders: how each is written on the command line, loaded and rebuilt after fine-tuning.

Another package adds a kind through an entry point of the group "mt4ssl_bench.encoders". It is then
written "<entry point's name>:<argument>" wherever an upstream is asked for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pkgutil import iter_modules
from typing import Protocol

from torch import Tensor, nn

from mt4ssl_bench.checkpoint import misfit
from mt4ssl_bench.encoders import kinds
from mt4ssl_bench.encoders.finetuning import Blueprint, Trainable, TuneConfig
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import UpstreamError
from mt4ssl_bench.registry import Registry


class Loader(Protocol):
    """Loads an upstream from the text after its prefix."""

    def __call__(self, argument: str, *, device: str) -> Upstream:
        """Return the upstream; raises BenchError if it cannot be loaded."""
        ...


@dataclass(frozen=True)
class EncoderKind:
    """A kind of encoder.

    Attributes:
        name: The prefix of "name:argument", and "kind" in the blueprint of its upstreams.
        about: What it loads, for `mt4ssl-bench list`.
        load: Argument and device -> upstream.
        rebuild: Blueprint and config -> the module to fine-tune, with any weights; raises
            BenchError if it cannot be built. None if this kind cannot be fine-tuned.
        example: How it is written on the command line, if not "name:<argument>".
        names: Returns every argument that it takes, if they can be listed.
    """

    name: str
    about: str
    load: Loader
    rebuild: Callable[[Blueprint, TuneConfig], nn.Module] | None = None
    example: str = ""
    names: Callable[[], Sequence[str]] | None = None

    @property
    def written(self) -> str:
        """How it is written on the command line."""
        return self.example or f"{self.name}:<argument>"


# upstream's kinds are named here, since their room lies above
_MT4SSL = "mt4ssl_bench.upstream.checkpoints.encoder_kinds"
ENCODERS: Registry[EncoderKind] = Registry(
    "kind of encoder",
    {module.name: f"{kinds.__name__}.{module.name}:KIND" for module in iter_modules(kinds.__path__)}
    | {
        "checkpoint": f"{_MT4SSL}:CHECKPOINT",
        "mt4ssl": f"{_MT4SSL}:DEFAULT",
        "mt4ssl_custom": f"{_MT4SSL}:CUSTOM",
        "mt4ssl_local": f"{_MT4SSL}:LOCAL",
        "mt4ssl_url": f"{_MT4SSL}:URL",
        "random": f"{_MT4SSL}:RANDOM",
    },
    group="mt4ssl_bench.encoders",
    base=EncoderKind,
)


def check_trainable(upstream: Upstream) -> Trainable:
    """Return `upstream`; raises UpstreamError if it cannot be fine-tuned."""
    where = f"upstream '{upstream.name}': cannot be fine-tuned"
    if not isinstance(upstream, Trainable):
        raise UpstreamError(f"{where}, it offers frozen features only; use mode=frozen")
    kind = str(upstream.blueprint.get("kind"))
    if ENCODERS.get(kind).rebuild is None:
        raise UpstreamError(f"{where}, its kind '{kind}' has no rebuild; use mode=frozen")
    if not upstream.parameters:
        raise UpstreamError(f"{where}, it has no weights; use mode=frozen")
    return upstream


def trainable(upstream: Upstream, config: TuneConfig) -> nn.Module:
    """Return a copy of `upstream` to train; raises UpstreamError if it cannot be fine-tuned."""
    return check_trainable(upstream).trainable(config)


def rebuild(blueprint: Blueprint, config: TuneConfig, state: Mapping[str, Tensor]) -> nn.Module:
    """Return the trained module that a file holds.

    Raises:
        UpstreamError: If the weights `state` do not fit the module, or its kind has no rebuild.
    """
    kind = str(blueprint.get("kind"))
    build = ENCODERS.get(kind).rebuild
    if build is None:
        raise UpstreamError(f"kind of encoder '{kind}': has no rebuild; install a version with one")
    module = build(blueprint, config)
    try:
        module.load_state_dict(state)
    except RuntimeError:
        raise UpstreamError(
            f"the stored weights do not fit their model ({misfit(module, state)})"
        ) from None
    return module
