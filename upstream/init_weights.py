"""Pretraining from given weights: the encoder must fit exactly, teacher and heads are taken where
they do.
"""

import logging
from pathlib import Path
from typing import Any

from torch import Tensor

from mt4ssl_bench.config import from_dict
from mt4ssl_bench.errors import CheckpointError, ConfigError, some
from mt4ssl_bench.upstream.checkpoints.checkpoint_file import read_checkpoint
from mt4ssl_bench.upstream.checkpoints.weight_names import TEACHER
from mt4ssl_bench.upstream.config import PretrainConfig
from mt4ssl_bench.upstream.model import MT4SSL

LOGGER = logging.getLogger(__name__)
FREE = {
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "layer_drop",
}  # of the encoder: no weight depends on them


def start_from(model: MT4SSL, source: Path) -> None:
    """Load the weights of a run folder or checkpoint into `model`, before its first update.

    What stays new is logged.

    A missing teacher becomes a copy of the loaded encoder, a head of another size stays new.

    Raises ConfigError naming the recipe's keys under which the encoders differ, CheckpointError for
    a foreign file and for one that lacks a weight of the encoder.
    """
    try:
        stored = read_checkpoint(source)
    except CheckpointError as error:
        raise CheckpointError(
            f"init {error}; convert someone else's first: mt4ssl-bench convert --help"
        ) from None
    check_encoder(source, from_dict(PretrainConfig, stored["config"]), model.config)
    own, given = model.state_dict(), dict(stored["model"])
    lost = [
        name
        for name, tensor in own.items()
        if not name.startswith("extractors.")
        and (name not in given or given[name].shape != tensor.shape)
    ]
    if lost:
        raise CheckpointError(
            f"init {source}: {len(lost)} weights of the encoder are missing or of another shape "
            f"({some(lost)}); expected all of them; convert or export the model again"
        )
    if any(name.startswith(TEACHER) for name in own.keys() - given.keys()):
        given |= {
            TEACHER + n.removeprefix("encoder."): t
            for n, t in given.items()
            if n.startswith("encoder.")
        }
        LOGGER.info("init %s: no teacher in it, the encoder's weights serve as one", source)
    taken = {
        name: tensor
        for name, tensor in given.items()
        if name in own and own[name].shape == tensor.shape
    }
    for name in sorted({".".join(name.split(".")[:3]) for name in own.keys() - taken.keys()}):
        LOGGER.info("init %s: %s stays new (%s)", source, name, _why(name, own, given))
    for name in sorted({".".join(name.split(".")[:3]) for name in given.keys() - own.keys()}):
        LOGGER.info("init %s: %s is not taken, this recipe does not train it", source, name)
    model.load_state_dict({**own, **taken})
    LOGGER.info("init %s: %d of %d tensors taken", source, len(taken), len(own))


def check_encoder(source: Path, theirs: PretrainConfig, ours: PretrainConfig) -> None:
    """Raise ConfigError naming every key under which the two models' encoders differ."""
    wrong = []
    for part in ("frontend", "encoder"):
        there, here = vars(getattr(theirs, part)), vars(getattr(ours, part))
        wrong += [
            f"{part}.{key}={here[key]}, expected {there[key]}"
            for key in there
            if key not in FREE and there[key] != here[key]
        ]
    if wrong:
        raise ConfigError(
            f"init {source}: another architecture than this recipe's: {'; '.join(wrong)}"
        )


def _why(name: str, own: dict[str, Tensor], given: dict[str, Any]) -> str:
    there, here = given.get(f"{name}.weight"), own.get(f"{name}.weight")
    if there is None or here is None:
        return "not in it"
    return f"{len(there)} classes there, {len(here)} here"
