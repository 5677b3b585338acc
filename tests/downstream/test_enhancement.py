"""Enhancement and separation through the command line: records, comparisons, and bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from builders import RATE, WORDS, call, run, speak
from mt4ssl_bench import results

KEYS = ("head.hidden=8", "sweep=0.01", "steps=6", "validate_every=3", "batch=4")


def noisy(folder: Path, *, short: int = 0, longer: str = "", factor: int = 1) -> Path:
    """Write tones with noise and without, or two voices and their mixture; return the table.

    `short` test utterances last 0.2 s. `longer` is the clean file that has a sample too many. At
    `factor` times 16 kHz, the last sample at 16 kHz has one sample, and begins the last frame.
    """
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    rows = ["id\tpath\tother:clean\tother:s1\tother:s2\tspeaker\tsplit"]
    for number in range(24):
        split = ("train", "train", "valid", "test")[number % 4]
        words = [list(WORDS)[(number + n) % 3] for n in range(2)]
        clean, other = speak(words, number % 5, rng), speak(words[::-1], 4 - number % 5, rng)
        size = min(len(clean), len(other))
        if split == "test" and number // 4 < short:
            size = RATE // 5
        signals = {
            "clean": clean[:size],
            "s1": clean[:size],
            "s2": other[:size],
            "noisy": clean[:size] + 0.05 * rng.standard_normal(size).astype(np.float32),
        }
        name = f"u{number:02}"
        for kind, samples in signals.items():
            extra = np.zeros(1 if longer == f"{name}-{kind}" else 0, np.float32)
            if factor > 1:
                last = factor * (size // 320 * 320 - 1) + 1
                samples = np.repeat(samples, factor)[:last]  # noqa: PLW2901
            file = folder / f"{name}-{kind}.wav"
            soundfile.write(file, np.append(samples, extra), factor * RATE)
        cells = [f"{name}-{kind}.wav" for kind in ("noisy", "clean", "s1", "s2")]
        rows.append("\t".join([name, *cells, f"spk{number % 5}", split]))
    table = folder / "manifest.tsv"
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return table


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("masks")
    done = run("prepare", "table", noisy(root / "in", short=2), "--out", root / "corpus")
    assert done.returncode == 0, done.stderr
    return root / "corpus"


def test_enhancement_counts_and_names_what_pesq_cannot_measure(
    corpus: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pesq")
    out = tmp_path / "out"
    done = run("evaluate", "fbank", "--task", "SE", "--corpus", corpus, "--out", out, *KEYS)
    assert done.returncode == 0, done.stderr
    assert "PESQ ↑ cannot be measured on 2 of 6 utterances of test, which its mean leaves" in (
        " ".join(done.stderr.split())
    )
    assert "out: u03, u07" in " ".join(done.stderr.split())
    (record,) = results.load_all(out)
    assert record.counts["test_without_pesq"] == record.counts["test_without_stoi"] == 2
    assert "test_without_si_sdri" not in record.counts
    assert list(record.metrics) == ["pesq", "stoi", "si_sdri", "pesq_mixture", "stoi_mixture"]
    assert (record.main_metric, record.main.over) == ("pesq", "utterances")
    (path,) = out.glob("*.json")
    answers = results.load_hypotheses(path)
    assert len(answers) == 6
    values = [answer["values"]["pesq"] for answer in answers if "pesq" in answer["values"]]
    assert len(values) == 4
    assert record.main.value == pytest.approx(np.mean(values))
    assert all(1 <= value <= 4.65 for value in values)
    shown = " ".join(run("show", path).stdout.split())
    assert "PESQ of the mixture" in shown
    board = run("leaderboard", out).stdout
    assert "SI-SDRi" in board
    assert "mixture" not in board


@pytest.mark.long
def test_separation_is_trained_found_again_and_compared(corpus: Path, tmp_path: Path) -> None:
    for upstream in ("fbank", "fbank_no_cmvn"):
        arguments = ("evaluate", upstream, "--task", "SS", "--corpus", corpus, "--out", tmp_path)
        done = run(*arguments, *KEYS)
        assert done.returncode == 0, done.stderr
    assert "already evaluated" in run(*arguments, *KEYS).stderr
    for record in results.load_all(tmp_path):
        assert (list(record.metrics), record.counts["test_utterances"]) == (["si_sdri"], 6)
        assert np.isfinite([record.main.low, record.main.high]).all()
    done = run("compare", "fbank", "fbank_no_cmvn", "--task", "SS", "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "SI-SDRi" in done.stdout


def test_audio_of_another_rate_is_trained_on_and_tested(tmp_path: Path) -> None:
    table = noisy(tmp_path / "in", factor=3)
    assert call("prepare", "table", table, "--out", tmp_path / "corpus") == 0
    words = ("--task", "SE", "--task", "SS", "--corpus", tmp_path / "corpus")
    keys = (*KEYS, "measures=si_sdri", "--out", tmp_path / "out")
    assert call("evaluate", "fbank", *words, *keys) == 0
    records = results.load_all(tmp_path / "out")
    assert sorted(record.task for record in records) == ["enhancement", "separation"]
    assert all(record.counts["test_utterances"] == 6 for record in records)


def test_sources_of_another_length_are_refused_by_prepare(tmp_path: Path) -> None:
    table = noisy(tmp_path / "in", longer="u05-s2")
    done = run("prepare", "table", table, "--out", tmp_path / "corpus")
    said = " ".join(done.stderr.split())
    assert done.returncode == 2
    assert "s2 has" in said
    assert "u05" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "SE", "mode=finetune"), "trains heads on frozen features only; expected mode"),
        (("--task", "SE", "measures=snr"), "expected one or several of si_sdri, pesq, stoi"),
        (("--task", "ASR"), "it has no text; this corpus has: other:clean, other:s1, other:s2"),
    ],
)
def test_wrong_requests_are_one_line(
    corpus: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = run("evaluate", "fbank", "--corpus", corpus, "--out", tmp_path, *arguments)
    said = " ".join(done.stderr.split())
    assert done.returncode == 2
    assert message in said
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*.json"))


def test_a_valid_split_that_cannot_be_measured_ends_training_at_the_first_validation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = noisy(tmp_path / "in")
    for line in table.read_text().splitlines():
        cells = line.split("\t")
        if cells[-1] == "valid":  # nothing is scored against a silent reference
            soundfile.write(table.parent / cells[2], np.zeros(size_of(table, cells[1])), RATE)
    assert call("prepare", "table", table, "--out", tmp_path / "corpus") == 0
    words = ("--task", "SE", "--corpus", tmp_path / "corpus", "--out", tmp_path / "out")
    assert call("evaluate", "fbank", *words, *KEYS, "measures=si_sdri") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "SI-SDRi dB ↑ cannot be measured on any of 6 utterances of valid at update 3" in said
    assert not list((tmp_path / "out").glob("*.json"))


def size_of(table: Path, name: str) -> int:
    return int(soundfile.info(table.parent / name).frames)


def test_values_stand_beside_the_record_as_numbers(corpus: Path, tmp_path: Path) -> None:
    keys = (*KEYS, "measures=si_sdri")
    done = run("evaluate", "fbank", "--task", "SE", "--corpus", corpus, "--out", tmp_path, *keys)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("*.hyp.jsonl")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert {tuple(row["values"]) for row in rows} == {("si_sdri",)}
    (record,) = results.load_all(tmp_path)
    assert record.settings["measures"] == ["si_sdri"]
    found = np.mean([row["values"]["si_sdri"] for row in rows])
    assert record.main.value == pytest.approx(found)
    assert record.main.label == "SI-SDRi dB ↑"
