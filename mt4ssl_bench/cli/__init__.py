"""The command line: thin commands by subject; nothing heavy is imported before a command runs."""

from typing import Any

__all__ = ["main"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the one name above
    if name != "main":
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from mt4ssl_bench.cli.app import main

    return main
