"""An upstream by its name: a run folder, a hub's name, hf:, random: or file.py:Class."""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mt4ssl_bench.encoders.names import is_run
from mt4ssl_bench.encoders.protocol import LOADERS, Upstream
from mt4ssl_bench.encoders.s3prl_model import s3prl_names
from mt4ssl_bench.errors import BenchError, UpstreamError

LOGGER = logging.getLogger(__name__)


def load_upstream(name: str, *, device: str = "cpu") -> Upstream:
    """Return the upstream called `name`.

    A run folder or checkpoint, <loader>:<argument> (random:<recipe>), file.py:Class, or any s3prl
    upstream. Raises UpstreamError, ConfigError or CheckpointError for a name that leads nowhere.
    """
    kind, colon, argument = name.partition(":")
    if colon and kind in list(LOADERS):
        return LOADERS.get(kind)(argument, device=device)
    if kind.endswith(".py"):
        return LOADERS.get("file")(name, device=device)
    loader = _kind(name)
    return LOADERS.get(loader)("" if loader == "mt4ssl" else name, device=device)


def _kind(name: str) -> str:
    """Return the loader of a name without a prefix: of a path, or of a name in s3prl's hub.

    A folder that holds no checkpoint of ours gives way to a hub name.
    """
    path, hub = Path(name), "mt4ssl" if name == "mt4ssl" else "s3prl"
    plain = "/" not in name and not name.endswith(".pt")  # could be a hub's name
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
    except UpstreamError:  # without s3prl a folder can only be ours
        return False


def load_each(
    names: Sequence[str], *, device: str, failed: Callable[[str, BenchError], None]
) -> Iterator[tuple[str, Upstream]]:
    """Yield (name, upstream) for every name that loads.

    Failed() hears of the others, if there are several names.

    Raises the first one's BenchError when none loads.
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
