"""A run's log.jsonl: one line per look, of values that are means over all frames and processes
since the last one.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from mt4ssl_bench.errors import TrainingError
from mt4ssl_bench.files import write_text


def write(path: Path, values: Mapping[str, float]) -> None:
    """Append one line; raises TrainingError when the disk does not take it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({key: _short(value) for key, value in values.items()}) + "\n")
    except OSError as error:
        raise TrainingError(
            f"{path}: could not be written ({error}); the last checkpoint stays"
        ) from error


def trim(path: Path, step: int) -> None:
    """Drop the lines of updates that will be made again, and a line that a kill cut short."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            continue
    replace(path, "".join(kept))


def replace(path: Path, text: str) -> None:
    """Write a text file, completely or not at all.

    Raises TrainingError when the disk does not take it.
    """
    try:
        write_text(path, text)
    except OSError as error:
        raise TrainingError(
            f"{path}: could not be written ({error}); what was there is untouched"
        ) from error


def _short(value: float) -> float | int:
    return value if isinstance(value, int) else float(f"{value:.6g}")
