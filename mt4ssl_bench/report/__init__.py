"""The HTML report: records and pretraining logs as figures and tables in one file.

It is a pure function of records, logs and measured costs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.files import write_text
from mt4ssl_bench.results.suite_records import SettingsOf
from mt4ssl_bench.wheels import missing


@dataclass(frozen=True)
class Written:
    """The numbers of records, runs and left-out files in a report."""

    records: int
    runs: int
    left_out: int


def write_report(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    suite: str = "",
    settings_of: SettingsOf = lambda _: None,
) -> Written:
    """Write the report of records, pretraining runs and costs in folders and below them.

    Args:
        paths: Folders or files, in any order.
        out: The HTML file.
        suite: Name of a suite, or the path of its file, whose table is shown first.
        settings_of: Return the settings of a suite's row, by which its records are found.

    Raises:
        BenchError: If a folder or suite does not exist, or the extra is not installed.
    """
    if not (find_spec("jinja2") and find_spec("matplotlib")):
        raise ConfigError(missing("report", "report"))
    from mt4ssl_bench.report.collect import collect
    from mt4ssl_bench.report.page import render
    from mt4ssl_bench.results.suite import read_suite
    from mt4ssl_bench.results.suite_table import build

    if Path(out).is_dir():
        raise ConfigError(f"--out {out}: a folder; expected the path of an HTML file")
    wanted = read_suite(suite) if suite else None
    content = collect([Path(path) for path in paths])
    tables = []
    if wanted and content.records:
        tables = [build(Path(suite).stem, wanted, content.records, content.answers, settings_of)]
    page = render(content, tables)
    Path(out).absolute().parent.mkdir(parents=True, exist_ok=True)
    write_text(Path(out), page)
    return Written(len(content.records), len(content.runs), len(content.problems))
