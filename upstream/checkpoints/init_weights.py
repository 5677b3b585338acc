"""Initialization from a checkpoint: the encoder must fit; teacher and heads may."""

import logging
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from mt4ssl_bench.errors import CheckpointError, ConfigError, some
from mt4ssl_bench.upstream.checkpoints.checkpoint_file import read_checkpoint, student
from mt4ssl_bench.upstream.checkpoints.weight_names import TEACHER
from mt4ssl_bench.upstream.config import PretrainConfig
from mt4ssl_bench.upstream.model import MT4SSL
from mt4ssl_bench.upstream.recipe import from_stored

LOGGER = logging.getLogger(__name__)
# no weight's shape
FREE = {"dropout", "attention_dropout", "activation_dropout", "layer_drop", "warp"}


def start_from(model: MT4SSL, source: Path) -> None:
    """Load the weights of a run folder or checkpoint into `model`.

    A missing teacher becomes a copy of the loaded encoder. A head of another size or of another
    extractor is newly initialized. Both are logged.

    Raises:
        ConfigError: If the encoders differ; names the keys.
        CheckpointError: If the file cannot be read, or a weight of the encoder is missing.
    """
    try:
        stored = read_checkpoint(source)
    except CheckpointError as error:
        raise CheckpointError(
            f"init {error}; convert the checkpoint of another toolkit first: mt4ssl-bench convert "
            "--help"
        ) from None
    check_encoder(source, from_stored(stored["config"]), model.config)
    own, given = model.state_dict(), dict(stored["model"])
    lost = [
        name
        for name, tensor in student(own).items()
        if name not in given or given[name].shape != tensor.shape
    ]
    if lost:
        raise CheckpointError(
            f"init {source}: {len(lost)} weights of the encoder are missing or of another shape "
            f"({some(lost)}); expected all of them; convert or export the model again"
        )
    if any(name.startswith(TEACHER) for name in own.keys() - given.keys()):
        encoder = {n: tensor for n, tensor in given.items() if n.startswith("encoder.")}
        given |= {TEACHER + n.removeprefix("encoder."): tensor for n, tensor in encoder.items()}
        LOGGER.info("init %s: no teacher in it, starting from a copy of the encoder", source)
    taken = {
        name: tensor
        for name, tensor in given.items()
        if name in own and own[name].shape == tensor.shape
    }
    for name in _modules(own.keys() - taken.keys()):
        LOGGER.info("init %s: %s is newly initialized (%s)", source, name, _why(name, own, given))
    for name in _modules(given.keys() - own.keys()):
        LOGGER.info("init %s: %s is not loaded, this recipe does not train it", source, name)
    model.load_state_dict({**own, **taken})
    LOGGER.info("init %s: %d of %d tensors loaded", source, len(taken), len(own))


def check_encoder(source: Path, theirs: PretrainConfig, ours: PretrainConfig) -> None:
    """Raise ConfigError with every key in which the two models' encoders differ."""
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


def _modules(names: set[str]) -> list[str]:
    """Return the modules of weights: extractors.offline.head of extractors.offline.head.bias."""
    return sorted({".".join(name.split(".")[:3]) for name in names})


def _why(module: str, own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    there, here = given.get(f"{module}.weight"), own.get(f"{module}.weight")
    if there is None or here is None:
        return "not in it"
    return f"{len(there)} classes there, {len(here)} here"
