"""Reading an MT4SSL run folder or checkpoint file."""

from pathlib import Path
from typing import Any

from mt4ssl_bench import checkpoint
from mt4ssl_bench.config import from_dict
from mt4ssl_bench.errors import CheckpointError
from mt4ssl_bench.upstream.config import PretrainConfig
from mt4ssl_bench.upstream.model import MT4SSL

KIND = "mt4ssl"


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what a run folder or checkpoint file holds.

    Raises CheckpointError when it is not one of ours.
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
    return stored


def read_model(path: Path) -> MT4SSL:
    """Return the student of a run folder or checkpoint file, which may hold no more than that.

    Its heads and teacher, which serve training alone, are left out. Raises CheckpointError when it
    is not one of ours.
    """
    stored = read_checkpoint(path)
    model = MT4SSL(from_dict(PretrainConfig, stored["config"]))
    model.extractors.clear()
    state = {k: v for k, v in stored["model"].items() if not k.startswith("extractors.")}
    try:
        model.load_state_dict(state)
    except RuntimeError:
        raise CheckpointError(
            f"{path}: its weights do not fit its config ({checkpoint.misfit(model, state)})"
        ) from None
    return model
