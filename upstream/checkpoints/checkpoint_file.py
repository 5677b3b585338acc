"""Reading an MT4SSL run folder or checkpoint file."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict, cast

from torch import Tensor

from mt4ssl_bench import checkpoint
from mt4ssl_bench.errors import CheckpointError
from mt4ssl_bench.settings import Json
from mt4ssl_bench.upstream.model import MT4SSL
from mt4ssl_bench.upstream.recipe import from_stored

KIND = "mt4ssl"


class Origin(TypedDict):
    """The source of a converted checkpoint."""

    name: str
    kind: str
    updates: int | None


class Stored(TypedDict, total=False):
    """A checkpoint of MT4SSL, as far as it is read here; exported ones have no training state."""

    kind: str
    config: dict[str, Json]
    model: dict[str, Tensor]
    corpus_digest: str
    step: int
    validations: list[dict[str, float]]
    source: Origin


def read_checkpoint(path: Path) -> Stored:
    """Return the content of a run folder or checkpoint file.

    Raises:
        CheckpointError: If it cannot be read, or is no MT4SSL checkpoint of this toolkit.
    """
    if path.is_dir():
        if (path / "model.safetensors").exists():
            raise CheckpointError(
                f"{path}: a Hugging Face folder; name it hf:{path}, or convert it"
            )
        path = path / "checkpoint.pt"
    stored = checkpoint.load(path)
    if stored.get("kind") != KIND:
        raise CheckpointError(
            f"{path}: not a pretraining checkpoint ({stored.get('kind', 'no kind')})"
        )
    return cast("Stored", stored)


def read_student(path: Path) -> tuple[MT4SSL, Stored]:
    """Return the student of a run folder or checkpoint file, and what else is in it.

    The model has neither heads nor teacher.

    Raises:
        CheckpointError: If it cannot be read, or its weights do not fit its config.
    """
    stored = read_checkpoint(path)
    model = MT4SSL(from_stored(stored["config"]), student_only=True)
    state = student(stored["model"])
    try:
        model.load_state_dict(state)
    except RuntimeError:
        raise CheckpointError(
            f"{path}: its weights do not fit its config ({checkpoint.misfit(model, state)})"
        ) from None
    return model, stored


def student(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the student's weights of a state dict, without those of the extractors."""
    return {key: tensor for key, tensor in state.items() if not key.startswith("extractors.")}
