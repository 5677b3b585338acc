"""Benchmarks measure by hand; here they are imported and asked for help, so that they do not rot."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_benchmark_imports_and_shows_its_help(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location(f"benchmark_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    monkeypatch.syspath_prepend(file.parent)  # as for a script
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look there
    spec.loader.exec_module(module)
    monkeypatch.setattr("sys.argv", [file.name, "--help"])
    with pytest.raises(SystemExit) as end:
        module.main()
    assert end.value.code == 0
    help_text = " ".join(capsys.readouterr().out.split())
    assert help_text.startswith(f"usage: {file.name}")
    assert " ".join((module.__doc__ or "").split("\n\n")[0].split()) in help_text


@pytest.mark.long
def test_the_check_of_a_gpu_runs_without_one(tmp_path: Path) -> None:
    out = tmp_path / "check.jsonl"
    sections = "environment,correctness,base_step,new_shapes,waits,passes,rows_on_the_fly,frozen"
    chosen = f"{sections},parts,finetune,shared_gradients,other_base_steps"
    command = [sys.executable, "benchmarks/gpu_check.py", "--only", chosen, "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = [json.loads(line) for line in out.read_text().splitlines()]
    correct = [each for each in figures if each["figure"].startswith("correct")]
    assert len(correct) == 8
    assert all(each["right"] for each in correct)
    found = {each["figure"] for each in figures}
    assert {"step, default", "waits in an update", "extract, bf16", "fine-tuning, 200 s"} <= found
    assert {"on the fly, asr, fp32, 5 rates", "pass, fp32, from files to a store"} <= found
    shared = [each for each in figures if each["figure"].startswith("shared gradients")]
    assert [(each["worst_error"] < 1e-6, each["missing"]) for each in shared] == [(True, 0)] * 2
