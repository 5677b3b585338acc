"""mt4ssl-bench: pretrain with MT4SSL, evaluate any speech encoder.

Importing this package imports nothing heavy.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["Leaderboard", "evaluate", "load_upstream", "pretrain"]

# In a checkout, upstream/, downstream/ and recipes/ lie beside this folder; in a wheel, inside it.
if not (Path(__file__).parent / "upstream").is_dir():
    __path__.append(str(Path(__file__).parent.parent))

if TYPE_CHECKING:  # at run time, a name is imported when it is first used
    from mt4ssl_bench.downstream.evaluate import evaluate
    from mt4ssl_bench.encoders.load import load_upstream
    from mt4ssl_bench.results.leaderboard import Leaderboard
    from mt4ssl_bench.upstream.pretrain import pretrain

_HOMES = {
    "Leaderboard": "mt4ssl_bench.results.leaderboard",
    "evaluate": "mt4ssl_bench.downstream.evaluate",
    "load_upstream": "mt4ssl_bench.encoders.load",
    "pretrain": "mt4ssl_bench.upstream.pretrain",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'mt4ssl_bench' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
