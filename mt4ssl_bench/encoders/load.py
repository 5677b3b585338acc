"""Upstreams by name: each name belongs to a kind of encoder, which loads it."""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mt4ssl_bench.device import fix_arithmetic
from mt4ssl_bench.encoders.kind import ENCODERS
from mt4ssl_bench.encoders.kinds.s3prl import s3prl_names
from mt4ssl_bench.encoders.names import is_run
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import BenchError, UpstreamError

LOGGER = logging.getLogger(__name__)


def load_upstream(name: str, *, device: str = "cpu") -> Upstream:
    """Return the upstream called `name`.

    Args:
        name: A run folder or checkpoint file, <kind>:<argument> (for example random:mt4ssl_tiny),
            file.py:Class, or a name of s3prl's hub.
        device: A torch device.

    Raises:
        UpstreamError, ConfigError, CheckpointError: If there is no such upstream.
    """
    kind, argument = split_kind(name)
    if device.startswith("cuda"):
        fix_arithmetic()  # a program has the same features as the commands
    return ENCODERS.get(kind).load(argument, device=device)


def split_kind(name: str) -> tuple[str, str]:
    """Return the kind of encoder that `name` belongs to, and the argument for its loader."""
    prefix, colon, argument = name.partition(":")
    if colon and prefix in ENCODERS:
        return prefix, argument
    if prefix.endswith(".py"):
        return "file", name
    if name != "mt4ssl" and name in ENCODERS and not Path(name).exists():
        written = ENCODERS.get(name).written
        raise UpstreamError(f"upstream '{name}': only the kind is given; write {written}")
    kind = _kind_without_prefix(name)
    return kind, "" if kind == "mt4ssl" else name


def _kind_without_prefix(name: str) -> str:
    """Return the kind of a path, or of a name in s3prl's hub.

    A folder without a checkpoint gives way to a hub name.
    """
    path, hub = Path(name), "mt4ssl" if name == "mt4ssl" else "s3prl"
    plain = "/" not in name and not name.endswith((".pt", ".safetensors"))  # could be a hub's name
    if not path.exists():
        return hub if plain or ":" in name else "checkpoint"
    if not (plain and _in_hub(name)):
        return "checkpoint"
    if is_run(path):
        LOGGER.info("%s: taken as the run ./%s, not as the hub's upstream of that name", name, name)
        return "checkpoint"
    LOGGER.info("%s: taken as the hub's upstream; ./%s holds no checkpoint.pt", name, name)
    return hub


def _in_hub(name: str) -> bool:
    try:
        return name == "mt4ssl" or name in s3prl_names()
    except UpstreamError:  # without s3prl a folder can only be a run
        return False


def load_each(
    names: Sequence[str], *, device: str, failed: Callable[[str, BenchError], None]
) -> Iterator[tuple[str, Upstream]]:
    """Yield (name, upstream) for every name that loads; `failed` is called for each of the others.

    Raises:
        BenchError: The first name's, if no name loads; `failed` is not called for a single name.
    """
    errors: list[BenchError] = []
    for name in names:
        try:
            upstream = load_upstream(name, device=device)
        except BenchError as error:
            if len(names) == 1:
                raise
            errors.append(error)
            failed(name, error)
        else:
            yield name, upstream
    if errors and len(errors) == len(names):
        raise errors[0]
