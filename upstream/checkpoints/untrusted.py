"""Third-party checkpoints: tensors and plain settings are read, and no object in them is built."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from mt4ssl_bench.errors import CheckpointError, lines
from mt4ssl_bench.settings import Json


@dataclass(frozen=True, kw_only=True)
class ThirdPartyCheckpoint:
    """Another toolkit's checkpoint under this toolkit's names.

    Attributes:
        kind: The toolkit and the model, in words.
        state: Tensors in fp32.
        keys: Recipe keys ("encoder.heads=4") that its settings imply.
        notes: Assumptions, and parts that are not converted.
        updates: Number of training updates, if the file holds it.
    """

    kind: str
    state: dict[str, Tensor]
    keys: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    updates: int | None = None


class Inert:
    """Replaces an object of a third-party file: keeps its arguments and state, and runs nothing."""

    args: tuple[object, ...]
    state: object

    def __new__(cls, *args: object, **_: object) -> Self:
        """Keep the arguments."""
        self = super().__new__(cls)
        self.args, self.state = args, None
        return self

    def __setstate__(self, state: object) -> None:
        self.state = state


def _plain_dict(*_: object) -> dict[object, object]:
    # replaces defaultdict(factory): torch's reader fills dicts, but no subclass of dict
    return {}


def read_third_party(path: Path) -> dict[str, object]:
    """Read any torch.save file: tensors and containers as they are, other objects as Inert.

    Only torch's restricted reader (weights_only=True) reads the pickle. It calls torch's own tensor
    builders and the classes that it is told to allow: here, Inert under every other name.

    Raises:
        CheckpointError: If the file cannot be read this way, or names functions of the operating
            system.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except ValueError:
        raise CheckpointError(
            f"{path}: not a zip file that torch.save wrote (torch before 1.6 and TorchScript write "
            "others); load it where it was made and torch.save its state dict again"
        ) from None
    # a damaged file fails in many ways, which are one to the user
    except Exception as error:  # noqa: BLE001
        raise CheckpointError(
            f"{path}: truncated, damaged or not a torch.save file ({_reason(error)})"
        ) from None
    replacements = [
        (_plain_dict if name == "collections.defaultdict" else Inert, name) for name in names
    ]
    try:
        with torch.serialization.safe_globals(replacements):  # type: ignore[arg-type]
            payload = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # noqa: BLE001 - as above
        raise CheckpointError(
            f"{path}: refused, it holds more than tensors and settings ({_reason(error)})"
        ) from None
    if not isinstance(payload, dict):
        raise CheckpointError(
            f"{path}: holds a {type(payload).__name__}, expected a dictionary with a model in it"
        )
    return payload


def plain(value: object) -> Json:
    """Return settings as plain containers: the content of namespaces, omegaconf nodes and enums."""
    state: object = None
    if isinstance(value, Inert):
        state = value.state[0] if isinstance(value.state, tuple) and value.state else value.state
        if not isinstance(state, dict):
            return plain(value.args[0]) if len(value.args) == 1 else None  # an enum's value
    elif isinstance(getattr(value, "__dict__", None), dict):
        state = vars(value)  # of a class that a library has registered with torch as safe
    if isinstance(state, dict):
        content = (state[key] for key in ("_content", "_val") if key in state)  # omegaconf's nodes
        return plain(next(content, state))
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value if isinstance(value, str | int | float | bool) else None


def tensors(state: object) -> dict[str, Tensor]:
    """Return the tensors of a state dict by name, in fp32 instead of half precision."""
    if not isinstance(state, Mapping):
        return {}
    return {
        str(name): tensor.detach().float() if tensor.is_floating_point() else tensor.detach()
        for name, tensor in state.items()
        if isinstance(tensor, Tensor)
    }


def _reason(error: Exception) -> str:
    every = lines(error)
    telling = [line for line in every if re.search("GLOBAL|Can only|Trying", line)]
    return (telling or every)[0][:160]
