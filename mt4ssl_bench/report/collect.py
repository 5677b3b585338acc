"""The content of a report: records, pretraining runs and measured costs, found by their content.

A file that cannot be read is left out and named in `problems`; the others are shown.
"""

import json
import logging
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict, cast

from mt4ssl_bench.errors import BenchError, CheckpointError
from mt4ssl_bench.report.run_curves import RunCurves, is_pretraining, read_curves
from mt4ssl_bench.results.answers import Answer
from mt4ssl_bench.results.field_types import misfit
from mt4ssl_bench.results.record import Result
from mt4ssl_bench.results.record_files import (
    hypotheses_path,
    load,
    load_hypotheses,
    one_model_each,
)
from mt4ssl_bench.results.runs import CONFIG, LOG

LOGGER = logging.getLogger(__name__)
RECORD = re.compile(r"-[0-9a-f]{16}\.json$")  # see record_files.stem()
STORE = "store"  # of features: large, without anything for a report


class Cost(TypedDict):
    """What `check-upstream --json` measures; one second of audio takes 1 / audio_per_second."""

    macs_per_second: float
    audio_per_second: float
    device: str


@dataclass
class Content:
    """All that a report shows.

    Attributes:
        records: Oldest first.
        costs: By the fingerprint of the model.
        problems: One line for each file that was left out.
    """

    records: list[Result] = field(default_factory=list)
    runs: list[RunCurves] = field(default_factory=list)
    costs: dict[str, Cost] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    _answers: dict[Path, Sequence[Answer]] = field(default_factory=dict)

    def answers(self, record: Result) -> Sequence[Answer]:
        """Return the answers beside a record; none if they cannot be read."""
        if record.file is None:
            return []
        if record.file not in self._answers:
            try:
                self._answers[record.file] = load_hypotheses(record.file)
            except CheckpointError as error:
                self.leave_out(error)
                self._answers[record.file] = []
        return self._answers[record.file]

    def leave_out(self, error: BenchError) -> None:
        """Name what is left out, once."""
        line = " ".join(str(error).split())
        if line not in self.problems:
            LOGGER.warning("%s; left out", line)
            self.problems.append(line)

    def add_record(self, path: Path) -> None:
        """Add a record, or name it if it cannot be read."""
        try:
            self.records.append(load(path))
        except CheckpointError as error:
            self.leave_out(error)


def collect(paths: Sequence[Path]) -> Content:
    """Read records, pretraining runs and costs in folders and below them.

    Args:
        paths: Folders or files, in any order.

    Raises:
        BenchError: If one does not exist.
    """
    content, logs = Content(), dict[Path, None]()
    for path in paths:
        if not path.exists():
            raise BenchError(
                f"report: {path}: no such file or folder; expected results of 'mt4ssl-bench "
                "evaluate' or runs of 'mt4ssl-bench pretrain'"
            )
    for file in _files_below(paths):
        if file.name in {LOG, CONFIG}:
            logs[file.parent] = None
        else:
            _add_json(file, content)
    runs = list(filter(is_pretraining, logs))
    content.runs = [read_curves(folder, len(runs)) for folder in runs]
    content.records = sorted(one_model_each(content.records), key=lambda record: record.created)
    return content


def _files_below(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the .json files and logs, each once, in an order that the disk does not decide."""
    seen = set()
    for path in paths:
        for file in _walk(path) if path.is_dir() else [path]:
            place = file.resolve()
            if place not in seen:
                seen.add(place)
                yield file


def _walk(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name != STORE and name[0] != ".")
        for name in sorted(names):
            if name == LOG or name.endswith(".json"):
                yield Path(folder, name)


def _add_json(file: Path, content: Content) -> None:
    """Add a record or a cost; other JSON is not for a report."""
    if hypotheses_path(file).exists() or RECORD.search(file.name):
        content.add_record(file)
        return
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if not isinstance(values, dict):
        return
    if "schema" in values and "main_metric" in values:  # renamed, without answers
        content.add_record(file)
    elif "checks" in values and "fingerprint" in values and values.get("cost"):
        cost = values["cost"]
        numbers = [cost.get(key) for key in ("macs_per_second", "audio_per_second")]
        whole = all(isinstance(x, int | float) and math.isfinite(x) and x >= 0 for x in numbers)
        if wrong := misfit(cost, Cost, "cost") or ("" if whole else "cost"):
            content.leave_out(CheckpointError(f"{file}: {wrong} is missing or of another type"))
        else:
            content.costs[str(values["fingerprint"])] = cast("Cost", cost)
