"""Records come back as they were saved, or with an error that names the file."""

import dataclasses
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mt4ssl_bench
from mt4ssl_bench import results
from mt4ssl_bench.errors import CheckpointError
from mt4ssl_bench.results import provenance
from mt4ssl_bench.results.answers import Answer
from mt4ssl_bench.results.metrics import Score
from mt4ssl_bench.results.record import Result


def a_score(value: float = 43.1) -> Score:
    return Score(value=value, low=41.9, high=44.4, higher_is_better=False, errors=431, total=1000)


def a_result(**changes: Any) -> Result:
    fields: dict[str, Any] = {
        "task": "phoneme",
        "task_version": 1,
        "upstream": {
            "name": "runs/my model.pt",
            "fingerprint": "f00dcafe12345678",
            "parameters": 94_697_600,
            "num_layers": 13,
            "dim": 768,
            "stride": 320,
        },
        "corpus": {
            "name": "demo",
            "digest": "a1b2c3d4e5f60718",
            "languages": ["en"],
            "synthetic": True,
            "splits": {"test": {"utterances": 120, "hours": 0.25}},
        },
        "main_metric": "per",
        "metrics": {"per": a_score()},
        "recipe_name": "phoneme_tiny",
        "recipe": {"optim": {"steps": 100, "betas": (0.9, 0.98)}, "lrs": [0.1, 0.01]},
        "sweep": [
            {"lr": 0.1, "seed": 0, "valid": None, "steps": 100, "chosen": False},
            {"lr": 0.01, "seed": 0, "valid": 44.0, "steps": 100, "chosen": True},
        ],
        "layer_weights": [0.5, 0.5],
        "seeds": [0],
        "limit": None,
        "mode": "frozen",
        "versions": {"torch": "2.11.0"},
        "git": None,
        "device": "cpu",
        "wall_seconds": {"extract": 1.5},
        "counts": {"train": 800},
        "created": "2026-11-22T12:00:00+00:00",
    }
    return Result(**(fields | changes))


def a_hypothesis(name: str = "utt-1", text: str = "AH0\u2028B") -> Answer:
    return Answer(
        id=name,
        speaker=None,
        reference="AH0 B",
        hypothesis=text,
        substitutions=1,
        deletions=1,
        insertions=0,
        tokens=2,
    )


def test_a_record_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    result = a_result(recipe={"steps": 100})
    path = results.save(result, [a_hypothesis()], tmp_path / "new")
    assert path.name == f"phoneme-runs-my-model-pt-{result.key}.json"
    assert results.load(path) == result
    assert results.load_all(tmp_path / "new") == [result]
    assert sorted(file.name for file in path.parent.iterdir()) == [
        path.name.replace(".json", ".hyp.jsonl"),
        path.name,
    ]


def test_hypotheses_come_back_by_id_even_with_odd_line_separators(tmp_path: Path) -> None:
    rows = [a_hypothesis("a"), a_hypothesis("b", text="")]
    assert results.load_hypotheses(results.save(a_result(), rows, tmp_path)) == rows


def test_a_second_evaluation_finds_the_first_by_content(tmp_path: Path) -> None:
    result = a_result()
    results.save(result, [], tmp_path)
    key = result.key
    found = results.find(tmp_path, key)
    assert found is not None
    assert found.metrics == result.metrics
    assert (
        found.key == key
    )  # tuples of the recipe are lists by now, and it is still the same recipe
    assert results.find(tmp_path, "0" * 16) is None
    assert results.find(tmp_path / "absent", key) is None


def test_files_that_a_system_writes_beside_records_are_not_read(tmp_path: Path) -> None:
    path = results.save(a_result(), [], tmp_path)
    (tmp_path / f"._{path.name}").write_bytes(b"\0\5\x16\7")
    assert len(results.load_all(tmp_path)) == 1
    assert results.find(tmp_path, a_result().key) == results.load(path)


def test_of_two_records_with_one_key_the_newest_is_found(tmp_path: Path) -> None:
    old = a_result()
    new = a_result(upstream=old.upstream | {"name": "another"}, created="2026-11-23T00:00:00+00:00")
    for result in (new, old):
        results.save(result, [], tmp_path)
    assert old.key == new.key
    found = results.find(tmp_path, old.key)
    assert found is not None
    assert found.upstream["name"] == "another"


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": "other"},
        {"corpus": "other"},
        {"recipe": "phoneme"},
        {"task": "asr"},
        {"mode": "finetune"},
        {"settings": {"steps": 101, "sweep": [0.1]}},
        {"version": 2},
        {"limit": 8},
    ],
)
def test_each_part_of_the_identity_changes_the_key(change: dict[str, Any]) -> None:
    parts: dict[str, Any] = {
        "fingerprint": "f",
        "corpus": "c",
        "recipe": "phoneme_tiny",
        "task": "phoneme",
        "version": 1,
        "mode": "frozen",
        "settings": {"steps": 100, "sweep": [0.1]},
        "limit": None,
    }
    key = results.Identity(**parts).key
    other_order = parts | {"settings": {"sweep": (0.1,), "steps": 100}}
    assert results.Identity(**other_order).key == key
    assert results.Identity(**(parts | change)).key != key
    same_numbers = (
        results.Identity(**parts).protocol == results.Identity(**(parts | change)).protocol
    )
    assert same_numbers == (change.keys() <= {"fingerprint", "corpus", "recipe", "limit"})


def test_a_known_digest_does_not_change_between_versions() -> None:
    # sha256 of {"a":null,"b":[1,2.5]}; another value would orphan every record that exists
    assert results.digest({"b": (1, 2.5), "a": None}) == "e57f5d37865437a8"


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    sweep = [{"lr": 0.1, "seed": 0, "valid": math.nan, "steps": 100, "chosen": True}]
    path = results.save(a_result(sweep=sweep), [], tmp_path)
    assert results.load(path).sweep[0]["valid"] is None
    assert "NaN" not in path.read_text(encoding="utf-8")


def test_a_truncated_record_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = results.save(a_result(), [], tmp_path)
    path.write_text(path.read_text(encoding="utf-8")[:100], encoding="utf-8")
    with pytest.raises(CheckpointError, match=rf"{path.name}: not JSON.*mt4ssl-bench evaluate"):
        results.load_all(tmp_path)


@pytest.mark.parametrize("text", ["[]", "3"])
def test_json_that_is_no_record_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"x\.json: holds a"):
        results.load(path)


def test_another_schema_is_refused_and_not_guessed_at(tmp_path: Path) -> None:
    path = results.save(a_result(), [], tmp_path)
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(values | {"schema": 2}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="schema 2, expected 1"):
        results.load(path)


@pytest.mark.parametrize("field", ["task", "metrics", "upstream"])
def test_a_missing_field_is_named(tmp_path: Path, field: str) -> None:
    path = results.save(a_result(), [], tmp_path)
    values = json.loads(path.read_text(encoding="utf-8"))
    del values[field]
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(CheckpointError, match=field):
        results.load(path)


def test_a_missing_fact_of_the_upstream_is_named(tmp_path: Path) -> None:
    result = a_result()
    path = results.save(result, [], tmp_path)
    values = json.loads(path.read_text(encoding="utf-8"))
    del values["upstream"]["parameters"]
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(CheckpointError, match="upstream.parameters is missing"):
        results.load(path)


def test_the_main_metric_must_be_the_first() -> None:
    with pytest.raises(CheckpointError, match="main metric 'wer'"):
        a_result(main_metric="wer")


def test_what_is_no_record_is_said_without_advice_to_delete_it(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"none\.json: no such file; records are the \.json files"
    ):
        results.load(tmp_path / "none.json")
    with pytest.raises(CheckpointError, match="a folder, not a record"):
        results.load(tmp_path)


def test_missing_hypotheses_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = results.save(a_result(), [], tmp_path)
    assert results.load_hypotheses(path) == []
    path.with_suffix(".hyp.jsonl").unlink()
    with pytest.raises(CheckpointError, match=r"\.hyp\.jsonl"):
        results.load_hypotheses(path)


def test_a_failed_save_leaves_the_old_record_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = a_result()
    path = results.save(old, [a_hypothesis()], tmp_path)
    before = path.read_bytes()

    def full_disk(*_: object) -> Path:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(CheckpointError, match=r"could not be saved .*no space"):
        results.save(dataclasses.replace(old, device="cuda"), [], tmp_path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_the_environment_names_versions_without_importing_them() -> None:
    code = (
        "import sys; from mt4ssl_bench.results.provenance import environment; "
        "print(sorted(environment()['versions']));print([name for name in ('torch', 's3prl', "
        "'lhotse') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, heavy = done.stdout.splitlines()
    for name in ("torch", "torchaudio", "lhotse", "jiwer", "mt4ssl_bench", "python"):
        assert f"'{name}'" in names
    assert heavy == "[]"


def test_a_record_made_in_a_checkout_names_its_revision() -> None:
    root = Path(mt4ssl_bench.__file__).parents[1]
    if not (root / ".git").exists():
        pytest.skip("the package does not run from a git checkout")
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    head = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert (provenance.environment()["git"] or "").removesuffix("-dirty") == head


def test_the_revision_is_the_checkouts_own_and_marked_when_files_differ(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "core.hooksPath=/dev/null"]
        command = [shutil.which("git") or "git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init")
    (tmp_path / "file").write_text("one", encoding="utf-8")
    git("add", "file")
    git("commit", "-m", "one")
    commit = git("rev-parse", "HEAD")
    inside = tmp_path / "site-packages"
    inside.mkdir()
    assert provenance._revision(tmp_path) == commit
    assert (
        provenance._revision(inside) is None
    )  # the package is only installed inside someone's repository
    (tmp_path / "file").write_text("two", encoding="utf-8")
    assert provenance._revision(tmp_path) == f"{commit}-dirty"
