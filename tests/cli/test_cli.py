"""The command line as a user types it: the whole chain, and every wrong input in one line with exit
code 2.
"""

import shutil
from pathlib import Path

import pytest

from builders import MAIN, TOY, Prefork, call, python, recipe, refused, run
from mt4ssl_bench import __version__
from mt4ssl_bench.corpora.source import SOURCES
from mt4ssl_bench.data.corpus import Corpus


def test_from_a_manifest_to_a_leaderboard(manifest: Path, tmp_path: Path, prefork: Prefork) -> None:
    corpus, model, results = (str(tmp_path / name) for name in ("corpus", "runs/first", "results"))
    prepared = run("prepare", "table", manifest, "--out", corpus, "--licence", "CC0")
    assert prepared.returncode == 0, prepared.stderr
    assert "train      18 utterances" in prepared.stdout
    assert "6 updates" in prefork.run("pretrain", TOY, f"data.corpus={corpus}", "--out", model)
    tasks = [part for name in MAIN for part in ("--task", recipe(name))]
    command = ["evaluate", model, f"random:{TOY}", *tasks, "steps=30", "validate_every=10"]
    command += ["--corpus", corpus, "--out", results]
    planned = prefork.run(*command, "--dry-run")
    assert planned.count("to do: ") == 6
    assert "features to store: " in planned
    assert not Path(results).exists()
    evaluated = prefork.run(*command)
    for text in ("first", "PER % ↓", "WER % ↓", "CER % ↓", "ACC % ↑"):
        assert text in evaluated
    records = {path: path.read_bytes() for path in Path(results).glob("*.json")}
    assert len(records) == 6

    again = prefork.run(*command)
    assert "already evaluated" in again
    assert again[again.rindex("upstream") :] == evaluated[evaluated.rindex("upstream") :]
    assert records == {path: path.read_bytes() for path in Path(results).glob("*.json")}

    swept = prefork.run("leaderboard", results, "--sweep")
    assert "PER % ↓ on valid by learning rate" in swept
    compared = prefork.run(
        "compare", "first", f"random:{TOY}", "--task", "asr", "--results", results
    )
    assert "WER % ↓: " in compared
    assert "CER % ↓: " in compared
    assert "in points; in brackets: its paired 95 % interval" in compared
    shown = prefork.run("show", str(next(Path(results).glob("phoneme-first-*.json"))))
    assert "most confused phonemes" in shown
    for form in ("markdown", "csv", "json"):
        assert "first" in prefork.run("leaderboard", results, "--format", form)


def test_labels_alone_and_pretraining_that_uses_them(
    corpus: Corpus, tmp_path: Path, prefork: Prefork
) -> None:
    labels, key = str(tmp_path / "labels"), f"data.corpus={corpus.root}"
    assert "clusters: 8" in prefork.run("kmeans", TOY, key, "--out", labels)
    key_2 = f"targets.offline.labels={labels}"
    prefork.run("pretrain", TOY, key, key_2, "--out", str(tmp_path / "run"))


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv=['mt4ssl-bench','--help']\n"
        "from mt4ssl_bench.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('HEAVY', [m for m in ('torch','lhotse','s3prl','sklearn','numpy') if m in "
        "sys.modules])"
    )
    assert "HEAVY []" in python(code)


@pytest.mark.parametrize(
    "command", [[], ["pretrain"], ["kmeans"], ["evaluate"], ["transcribe"], ["leaderboard"], ["compare"], ["show"],
                ["list"], *(["prepare", name] for name in SOURCES)],
)  # fmt: skip
def test_every_command_has_help_with_an_example(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*command, "--help") == 0
    said = capsys.readouterr().out
    assert not command or "mt4ssl-bench" in said.split("Usage:")[1].split("\n", 1)[1]
    assert ("--shards" in said) == ("prepare" in command)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "table", "nowhere.tsv"], "nowhere.tsv: no such manifest"),
        (["prepare", "folder", "nowhere"], "nowhere: no such folder"),
        (["pretrain", "mt4ssl_tinny", "data.corpus={corpus}"], "did you mean mt4ssl_tiny"),
        (["pretrain", "mt4ssl_tiny", "data.corpus={corpus}", "optim.lrr=1"], "did you mean lr?"),
        (["pretrain", "mt4ssl_tiny", "data.corpus={corpus}", "optim.lr=fast"], "optim.lr"),
        (["pretrain", "mt4ssl_tiny", "data.corpus={corpus}", "nonsense"], "expected key=value"),
        (["pretrain", "mt4ssl_tiny"], "data.corpus: no corpus named"),
        (["pretrain", "mt4ssl_tiny", "data.corpus=nowhere"], "corpus nowhere: no such folder"),
        (
            ["pretrain", "mt4ssl_tiny", "data.corpus={corpus}", "data.valid=vlaid"],
            "did you mean valid",
        ),
        (["kmeans", "mt4ssl_tiny"], "data.corpus: no corpus named"),
        (["evaluate", "fbank", "--task", "ars", "--corpus", "{corpus}"], "did you mean asr"),
        (["evaluate", "fbnak", "--task", "asr", "--corpus", "{corpus}"], "fbank"),
        (["evaluate", "steps=1", "--task", "asr", "--corpus", "{corpus}"], "at least one upstream"),
        (
            ["evaluate", "fbank", "--task", "asr", "--corpus", "nowhere"],
            "corpus nowhere: no such folder",
        ),
        (
            ["evaluate", "runs/none", "--task", "asr", "--corpus", "{corpus}"],
            "runs/none: no such checkpoint",
        ),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(
    corpus: Corpus,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    filled = [part.replace("{corpus}", str(corpus.root)) for part in arguments]
    assert message in refused(capsys, *filled, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_labels_of_another_corpus_are_refused(
    corpus: Corpus, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = manifest.parent / "other.tsv"
    other.write_text("\n".join(manifest.read_text().splitlines()[:15]) + "\n")
    assert call("prepare", "table", other, "--out", tmp_path / "other") == 0
    assert (
        call("kmeans", TOY, f"data.corpus={tmp_path / 'other'}", "--out", tmp_path / "labels") == 0
    )
    said = refused(
        capsys, "pretrain", TOY, f"data.corpus={corpus.root}", f"targets.offline.labels={tmp_path / 'labels'}",
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert "made from another corpus" in said
    assert not (tmp_path / "run").exists()


def test_a_truncated_checkpoint_is_refused(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"PK\x03\x04 and then nothing")
    said = refused(
        capsys,
        "evaluate",
        tmp_path / "run",
        "--task",
        "asr",
        "--corpus",
        corpus.root,
        "--out",
        tmp_path / "out",
    )
    assert "truncated, damaged or not a checkpoint" in said


def test_a_folder_that_cannot_be_made_is_one_line(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert "file" in refused(
        capsys, "prepare", "folder", manifest.parent, "--out", tmp_path / "file" / "corpus"
    )


def test_names_that_a_terminal_cannot_show_are_printed_with_escapes(
    manifest: Path, tmp_path: Path
) -> None:
    shutil.copytree(manifest.parent / "audio", tmp_path / "Töne")
    folder, out = tmp_path / "Töne", tmp_path / "aus"
    done = run("prepare", "folder", folder, "--out", out, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "T\\xf6ne" in done.stdout


def test_a_file_where_a_run_should_go_is_refused_before_labels_are_made(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    said = refused(
        capsys, "pretrain", TOY, f"data.corpus={corpus.root}", "--out", tmp_path / "file"
    )
    assert said.endswith("file: a file; expected a folder, or none yet")


def test_a_truncated_split_is_one_line(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(corpus.root, tmp_path / "cut")
    whole = (tmp_path / "cut" / "train.jsonl.gz").read_bytes()
    (tmp_path / "cut" / "train.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    said = refused(
        capsys, "pretrain", TOY, f"data.corpus={tmp_path / 'cut'}", "--out", tmp_path / "run"
    )
    assert "train.jsonl.gz: damaged" in said


def test_ctrl_c_outside_training_says_what_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mt4ssl_bench.results.leaderboard.Leaderboard.from_folder", interrupted)
    assert call("leaderboard", tmp_path) == 130
    assert "same command continues" in capsys.readouterr().err


def test_an_empty_folder_has_no_leaderboard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "mt4ssl-bench evaluate" in refused(capsys, "leaderboard", tmp_path)


def test_list_shows_recipes_tasks_and_kinds_of_upstream(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("list") == 0
    said = capsys.readouterr().out
    for name in ("mt4ssl_base", "mt4ssl_tiny", "phoneme_tiny", "asr", "random:<recipe>"):
        assert name in said


@pytest.mark.parametrize(
    ("what", "name"),
    [("upstreams", "wavlm_base_plus"), ("tasks", "phoneme"), ("corpora", "speechocean762")],
)
def test_list_shows_all_names_of_one_kind(
    capsys: pytest.CaptureFixture[str], what: str, name: str
) -> None:
    assert call("list", what) == 0
    assert name in capsys.readouterr().out


def test_the_version_is_printed_without_a_command() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{__version__}\n", "")


def test_an_error_shows_a_name_as_it_is_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("leaderboard", "[bold]a\n\x1b[31mb[/x]") == 2
    assert capsys.readouterr().err.splitlines() == [
        'error: no result records in [bold]a \\x1b[31mb[/x]; make one with "mt4ssl-bench evaluate"'
    ]


def test_a_wrong_choice_lists_the_choices(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("segment", "x", "--out", "y", "--by", "nope") == 2
    assert "'silence', 'windows'" in capsys.readouterr().err
