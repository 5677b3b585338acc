"""The log.jsonl of a run: one line per logging interval.

Values are means over all frames and processes since the previous line.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from mt4ssl_bench.errors import TrainingError
from mt4ssl_bench.files import write_text


def write(path: Path, values: Mapping[str, float]) -> None:
    """Append one line.

    Raises:
        TrainingError: If the file cannot be written (for example, disk full).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({key: _short(value) for key, value in values.items()}) + "\n")
    except OSError as error:
        raise TrainingError(
            f"{path}: could not be written ({error}); the last checkpoint stays"
        ) from error


def trim(path: Path, step: int) -> None:
    """Remove the lines after update `step`, and an incomplete last line of a killed run."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            if json.loads(line)["step"] <= step:
                lines.append(line + "\n")
        except (ValueError, KeyError):
            continue
    replace(path, "".join(lines))


def replace(path: Path, text: str) -> None:
    """Write a text file atomically.

    Raises:
        TrainingError: If the file cannot be written (for example, disk full).
    """
    try:
        write_text(path, text)
    except OSError as error:
        raise TrainingError(
            f"{path}: could not be written ({error}); an existing file is kept"
        ) from error


def _short(value: float) -> float | int:
    return value if isinstance(value, int) else float(f"{value:.6g}")
