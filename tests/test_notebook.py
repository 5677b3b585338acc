"""The notebook in examples/ runs from its first cell to its last, with figures inline."""

import os
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "examples" / "quickstart.ipynb"
# one environment variable cuts every training; without it, the notebook takes ten minutes
STEPS = os.environ.get("MT4SSL_BENCH_DOCS_STEPS", "2")


def test_the_notebook_is_valid_and_holds_no_output() -> None:
    nbformat = pytest.importorskip("nbformat", reason="the extra [dev] is not installed")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert 5 <= len(cells) <= 10
    assert not any(cell.outputs or cell.execution_count for cell in cells)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("espeakng_loader", reason="the extra [demo] is not installed")
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("MT4SSL_BENCH_DOCS_STEPS", STEPS)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=1500, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    shown = [output.data for output in outputs if "data" in output]
    assert sum("image/png" in data for data in shown) == 2
    (table,) = [data["text/html"] for data in shown if "text/html" in data]
    assert all(name in table for name in ("mt4ssl_demo", "fbank", "random:mt4ssl_demo"))
    assert (tmp_path / "demo" / "runs" / "mt4ssl_demo" / "log.jsonl").exists()
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    assert f"{STEPS} updates; finished: True" in printed
    assert "PER % ↓: " in printed
