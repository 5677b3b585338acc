"""Checkpoints that others wrote: tensors and plain settings are read, and no object in them is ever
built.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from mt4ssl_bench.errors import CheckpointError, lines


@dataclass(frozen=True, kw_only=True)
class Found:
    """A foreign checkpoint in our terms.

    Attributes:
        kind: what wrote it, in words.
        state: tensors under our names, fp32.
        keys: recipe keys ("encoder.heads=4") that its settings state.
        notes: what was assumed and what was left behind.
        updates: how many updates it was trained for, where it says so.
    """

    kind: str
    state: dict[str, Tensor]
    keys: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    updates: int | None = None


class Inert:
    """Stands where a foreign file holds an object: keeps what it would have been built from and
    runs nothing.
    """

    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: object, **_: object) -> Self:
        """Keep the arguments."""
        self = super().__new__(cls)
        self.args, self.state = args, None
        return self

    def __setstate__(self, state: object) -> None:
        self.state = state


def _plain_dict(*_: object) -> dict[object, object]:
    # stands for defaultdict(factory): torch's reader fills dicts, never a dict's subclass
    return {}


def read_foreign(path: Path) -> dict[str, Any]:
    """Read a torch.save file of anyone's: tensors and containers as they are, every other object as
    an Inert.

    torch's restricted reader (weights_only=True) stays the only one that touches the pickle: it
    calls nothing but torch's own tensor builders and what it is told to allow, and here that is
    Inert under each foreign name.

    Raises CheckpointError for a file that cannot be read this way, or that names the operating
    system's functions.
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
    # a damaged file fails in many ways, all meaning the same to the user
    except Exception as error:  # noqa: BLE001
        raise CheckpointError(
            f"{path}: truncated, damaged or not a torch.save file ({_reason(error)})"
        ) from None
    stands_for = [
        (_plain_dict if name == "collections.defaultdict" else Inert, name) for name in names
    ]
    try:
        with torch.serialization.safe_globals(stands_for):  # type: ignore[arg-type]
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


def plain(value: object) -> Any:  # noqa: ANN401 - containers of str, int, float, bool and None
    """Return settings as plain containers: argparse namespaces, omegaconf nodes and enums by what
    they hold.
    """
    if not isinstance(value, Inert) and isinstance(getattr(value, "__dict__", None), dict):
        state = vars(value)  # of a class that some library has told torch to trust
        return plain(next((state[key] for key in ("_content", "_val") if key in state), state))
    if isinstance(value, Inert):
        state = value.state[0] if isinstance(value.state, tuple) and value.state else value.state
        if isinstance(state, dict):
            held = next(
                (state[key] for key in ("_content", "_val") if key in state), state
            )  # omegaconf's nodes
            return plain(held)
        return plain(value.args[0]) if len(value.args) == 1 else None  # an enum's value
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value if isinstance(value, str | int | float | bool) else None


def tensors(state: object) -> dict[str, Tensor]:
    """Return the tensors of a state dict by name, half precision as fp32 (exactly).

    Anything else is left out.
    """
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
