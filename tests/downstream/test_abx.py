"""The ABX tasks: records that files alone reproduce, and refusals, through the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from builders import run
from fakes import Encoder
from mt4ssl_bench.abx.answers import ACROSS, WITHIN, answers_of, table_of
from mt4ssl_bench.abx.intervals import replicate
from mt4ssl_bench.abx.items import Token, read_items
from mt4ssl_bench.abx.plan import AbxConfig
from mt4ssl_bench.abx.score import score_layers
from mt4ssl_bench.abx.spans import find_frames
from mt4ssl_bench.downstream.evaluate import evaluate
from mt4ssl_bench.downstream.layers import survey as layers_survey
from mt4ssl_bench.encoders import load
from mt4ssl_bench.encoders.protocol import Features
from mt4ssl_bench.results.intervals import Units, paired_difference
from mt4ssl_bench.results.record_files import load as load_record
from mt4ssl_bench.results.record_files import load_hypotheses, record_path
from mt4ssl_bench.results.record_parts import LayerScore

MODEL = "random:mt4ssl_tiny"
TONES = {"AA": 300.0, "IY": 900.0, "UW": 500.0, "S": 3000.0, "M": 200.0}


def write_phones(
    folder: Path, splits: tuple[str, ...], speakers: int = 2, names: tuple[str, ...] = ()
) -> Path:
    """Write tones whose times are known, as a table and a CTM, and prepare them.

    `names` are the speakers'; default: test0, test1, ...
    """
    rng = np.random.default_rng(0)
    rows, ctm = ["id\tpath\tspeaker\tsplit"], []
    for name in (f"{split}{s}-{u}" for split in splits for s in range(speakers) for u in range(4)):
        split, speaker = name[:-3], int(name[-3])
        wave = [np.zeros(1600)]
        for place in range(8):
            phone = list(TONES)[rng.integers(5)] if place % 2 else "M"
            pitch = TONES[phone] * (1 + 0.05 * speaker)
            wave.append(0.3 * np.sin(2 * np.pi * pitch * np.arange(1600) / 16_000))
            ctm.append(f"{name} 1 {0.1 + 0.1 * place:.2f} 0.1 {phone}")
        noise = rng.normal(0, 0.01, 9 * 1600)
        (folder / "audio").mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"audio/{name}.wav", np.concatenate(wave) + noise, 16_000)
        who = names[speaker] if names else f"{split}{speaker}"
        rows.append(f"{name}\taudio/{name}.wav\t{who}\t{split}")
    (folder / "table.tsv").write_text("\n".join([*rows, ""]))
    (folder / "phones.ctm").write_text("\n".join([*ctm, ""]))
    corpus = folder / "corpus"
    done = run("prepare", "table", folder / "table.tsv", "--alignment", folder / "phones.ctm",
               "--out", corpus)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with time-aligned phones, valid and test of two speakers each."""
    return write_phones(tmp_path_factory.mktemp("aligned"), ("valid", "test"))


@pytest.fixture(scope="module")
def results(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of phone and speaker ABX."""
    out = tmp_path_factory.mktemp("results")
    tasks = ("--task", "abx", "--task", "abx_speaker")
    done = run("evaluate", MODEL, "fbank", *tasks, "--corpus", corpus, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "abx within, exact frames" in " ".join(done.stdout.replace("┃", "").split())
    return out


def test_a_record_has_all_layers_and_files_that_reproduce_it(results: Path) -> None:
    (path,) = results.glob("abx-random*.json")
    result, answers = load_record(path), load_hypotheses(path)
    assert (result.task, result.mode, result.chosen_on) == ("abx", "frozen", "valid")
    assert list(result.metrics) == ["abx_within", "abx_across"]
    assert result.layer is not None
    for metric in (WITHIN, ACROSS):
        curve, score = result.layer_scores[metric.name], result.metrics[metric.name]
        assert len(curve) == result.upstream["num_layers"]
        assert curve[result.layer]["value"] == score.value
        again = metric.score(answers)
        assert (again.value, again.low, again.high) == (score.value, score.low, score.high)
        assert score.method == "range"  # two speakers
        assert score.title.endswith("exact frames")
    assert result.counts["within_tokens"] > 0
    assert len(read_items(path.with_suffix(".item"))) >= result.counts["within_tokens"]


def test_item_files_give_the_same_scores(corpus: Path, results: Path, tmp_path: Path) -> None:
    (path,) = results.glob("abx-fbank*.json")
    items = path.with_suffix(".item")
    out = ("--corpus", corpus, "--out", tmp_path)
    done = run("evaluate", "fbank", "--task", "abx", "--items", items, *out)
    assert done.returncode == 0, done.stderr
    (again,) = tmp_path.glob("abx-*.json")
    assert load_record(again).metrics == load_record(path).metrics
    assert load_record(again).chosen_on == "test"  # the file has no token of valid


def test_a_token_that_is_listed_twice_changes_no_score(
    corpus: Path, results: Path, tmp_path: Path
) -> None:
    (path,) = results.glob("abx-fbank*.json")
    header, *lines = path.with_suffix(".item").read_text().splitlines()
    (tmp_path / "twice.item").write_text("\n".join([header, *lines, *lines, ""]))
    out = ("--corpus", corpus, "--out", tmp_path)
    done = run("evaluate", "fbank", "--task", "abx", "--items", tmp_path / "twice.item", *out)
    assert done.returncode == 0, done.stderr
    (again,) = tmp_path.glob("abx-*.json")
    assert load_record(again).metrics == load_record(path).metrics
    assert load_record(again).counts["tokens_that_are_listed_once_more"] == len(lines)
    assert again.with_suffix(".item").read_text() == path.with_suffix(".item").read_text()


@pytest.mark.parametrize("names", [("Anna K.", "Ben"), ("Anna K.", "Anna_K.")])
def test_names_with_spaces_cost_no_score(tmp_path: Path, names: tuple[str, ...]) -> None:
    corpus = write_phones(tmp_path, ("test",), names=names)
    out = ("--corpus", corpus, "--out", tmp_path / "out")
    done = run("evaluate", "fbank", "--task", "abx", *out)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "out").glob("abx-*.json")
    assert {row["id"] for row in load_hypotheses(path)} == set(names)
    distinct = "Ben" in names
    warning = "abx: no item file: group 'Anna_K.' and 'Anna K.' would be one without white space"
    assert (warning in " ".join(done.stderr.split())) != distinct
    assert path.with_suffix(".item").exists() == distinct
    if distinct:
        tokens = read_items(path.with_suffix(".item"))
        assert {token.group for token in tokens} == {"Anna_K.", "Ben"}


def test_two_upstreams_are_compared_over_the_same_triplets(results: Path) -> None:
    done = run("compare", MODEL, "fbank", "--task", "abx", "--results", results)
    assert done.returncode == 0, done.stderr
    assert "within" in done.stdout.partition(", abx\n")[2]
    text = " ".join(done.stdout.split())
    assert "over 2 speakers" in text
    assert "2 speakers are too few, it takes 6; each by itself differs by" in text
    (shown,) = results.glob("abx_speaker-random*.json")
    done = run("show", shown)
    assert done.returncode == 0, done.stderr
    assert "is the best on valid" in " ".join(done.stdout.split())


def test_layers_names_the_best_and_its_data(corpus: Path, tmp_path: Path) -> None:
    options = ("--clusters", "8", "--store", tmp_path)
    done = run("layers", MODEL, "--corpus", corpus, *options)
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert "is the best by PNMI, chosen on split 'valid'" in text
    assert "next: mt4ssl-bench kmeans mt4ssl_tiny" in text
    assert "targets.offline.clusters=8" in text


class Strided(Encoder):
    """Log magnitudes of frames of `stride` samples, in noise on layer 0: tones without overlap."""

    num_layers = 2

    def __init__(self, stride: int, noise: float = 10.0) -> None:
        self.name, self.stride, self.dim = f"every{stride}", stride, stride // 2
        self.noise, self.fingerprint = noise, f"{noise} and {stride}"

    def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
        frames = waveforms.unfold(1, self.stride, self.stride)
        x = (torch.fft.rfft(frames).abs()[..., 1:] + 0.1).log()
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(x.shape[1]))
        return Features(torch.stack([x + self.noise * noise, x]), lengths // self.stride)


@pytest.mark.parametrize("stride", [160, 320, 640])
def test_any_stride_reads_the_frames_of_its_tokens(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stride: int
) -> None:
    model = Strided(stride)
    monkeypatch.setattr(load, "load_upstream", lambda name, device: model)  # noqa: ARG005
    monkeypatch.setattr(layers_survey, "load_upstream", lambda name, device: model)  # noqa: ARG005
    keys = ["span=phoneme", "context=any"]
    outcome = evaluate(["it"], ["abx"], corpus, out=tmp_path, device="cpu", overrides=keys)
    assert not outcome.failures
    (result,) = outcome.results
    assert result.counts["within_tokens"] > 20
    assert result.layer == 1
    noisy, clean = (row["value"] for row in result.layer_scores["abx_within"])
    assert clean < 3 < noisy, "read by another grid, tones are not those of the alignment"
    found = layers_survey.survey(
        "it", corpus, overrides=keys, split="test", clusters=8, store=tmp_path / "store"
    )
    assert found.best == 1
    noisy, clean = (float(row[-1].text) for row in found.rows)  # PNMI
    assert noisy < 0.5 < clean
    assert bool(found.command) == (stride == 320)
    note = f"no kmeans command: every{stride} has a frame every {stride} samples"
    assert (note in found.reason) == (stride != 320)


@pytest.mark.long
def test_a_sample_of_the_tokens_has_its_spread_recorded(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Strided(320, noise=3.0)
    monkeypatch.setattr(load, "load_upstream", lambda name, device: model)  # noqa: ARG005

    def rows(*keys: str) -> list[LayerScore]:
        words = ["span=phoneme", "context=any", *keys]
        (result,) = evaluate(
            ["it"], ["abx"], corpus, out=tmp_path, device="cpu", overrides=words
        ).results
        assert load_record(record_path(result, tmp_path)) == result
        return result.layer_scores["abx_within"]

    assert not any("spread" in row for row in rows())
    seeds = [rows("max_tokens=2", f"seed={seed}")[0]["value"] for seed in range(5)]
    first = rows("max_tokens=2")[0]
    assert first["samples"] == 5
    assert first["spread"] == pytest.approx(np.std(seeds, ddof=1))
    assert first["spread"] > 0
    shown = [run("show", p).stdout for p in tmp_path.glob("abx-every320-*.json")]
    assert sum("over 5 samples" in text for text in shown) == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--items", "/nowhere.item"), "items=/nowhere.item: cannot be read"),
        (("modes=[up]",), "expected 'within', 'across' or both"),
        (("mode=finetune",), "trains nothing; expected mode=frozen"),
        (("lr=0.1",), "key 'lr': task 'abx' does not read it, only asr"),
        (("max_tokens=1",), "expected 0 for no limit"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_a_line(
    corpus: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    done = run("evaluate", MODEL, "--task", "abx", "--corpus", corpus, "--out", tmp_path, *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_one_speaker_has_only_a_range_within(tmp_path: Path) -> None:
    corpus = write_phones(tmp_path, ("test",), speakers=1)
    command = ("evaluate", MODEL, "--task", "abx", "--corpus", corpus, "--out", tmp_path / "out")
    done = run(*command)
    assert done.returncode == 1
    assert "ABX across speakers: no triplet" in done.stderr
    done = run(*command, "modes=[within]")
    assert done.returncode == 0, done.stderr
    assert "chosen on test itself" in done.stderr
    (path,) = (tmp_path / "out").glob("*.json")
    assert load_record(path).main.method == "range"


def test_answers_give_the_table_back_and_its_weights() -> None:
    rng = np.random.default_rng(1)
    tokens = [
        Token(f"u{number}", 0, 100_000, "ABC"[number % 3], "x", "y", f"s{number % 4}")
        for number in range(60)
    ]
    hidden = {token.utterance: rng.normal(size=(2, 8, 4)).astype(np.float32) for token in tokens}
    spans = find_frames(tokens, dict.fromkeys(hidden, 8))
    tables = score_layers(spans, lambda name: torch.from_numpy(hidden[name]), AbxConfig())
    sides = [answers_of(tables, layer) for layer in (0, 1)]
    for metric in (WITHIN, ACROSS):
        table = tables[metric.mode]
        errors = replicate(table)
        for layer, answers in enumerate(sides):
            back, over = table_of(answers, metric.mode)
            assert over == "groups"
            np.testing.assert_array_equal(back.keys, table.keys)
            np.testing.assert_array_equal(back.sums[0], table.sums[layer])
            assert metric.value(answers) == pytest.approx(100 * table.errors()[layer])
            weights = np.array([1.0, 0, 0, 0])  # one speaker: across, nothing is left
            value = metric.value(answers, weights)
            alone = 100 * errors.values[layer, 0]  # a "range" is of single speakers
            own = metric.alone(answers)
            assert list(own.values()) == pytest.approx((100 * errors.values[layer]).tolist())
            if metric is WITHIN:  # as are plain answers of one speaker
                one = [metric.value([each]) for each in answers]
                assert one == pytest.approx([own[each["id"]] for each in answers])
            assert np.isnan(value) if metric is ACROSS else value == pytest.approx(alone)
        systems = [metric.system(answers) for answers in sides]
        value, _ = paired_difference(*systems, Units.of(metric.units(sides[0])))
        assert value == pytest.approx(100 * (table.errors()[0] - table.errors()[1]))
    assert {json.dumps(row["reference"]) for side in sides for row in side} == {
        json.dumps(sides[0][0]["reference"])
    }


@pytest.mark.long
@pytest.mark.speech
def test_word_abx_of_recorded_digits(speech: Path, tmp_path: Path) -> None:
    folder = speech / "tasks" / "fsdd_queries"
    header, *lines = (folder / "manifest.tsv").read_text(encoding="utf-8").splitlines()
    assert header.split("\t")[:4] == ["id", "path", "speaker", "digit"]
    rows = ["id\tpath\tspeaker\tdigit\tsplit"]
    for line in lines:
        name, path, speaker, digit, *_ = line.split("\t")
        rows.append(f"{name}\t{folder / path}\t{speaker}\td{digit}\ttest")
    (tmp_path / "table.tsv").write_text("\n".join([*rows, ""]))
    table = ("table", tmp_path / "table.tsv", "--label", "digit", "--out", tmp_path / "digits")
    assert run("prepare", *table).returncode == 0
    out = ("--corpus", tmp_path / "digits", "--out", tmp_path / "out", "words=digit")
    done = run("evaluate", "mfcc", MODEL, "--task", "abx_word", *out)
    assert done.returncode == 0, done.stderr
    (good,), (bad,) = ((tmp_path / "out").glob(f"abx_word-{n}*.json") for n in ("mfcc", "random"))
    mfcc, untrained = load_record(good).metrics, load_record(bad).metrics
    assert 0 < mfcc["abx_within"].value < mfcc["abx_across"].value < 30
    assert untrained["abx_across"].value > mfcc["abx_across"].high
    assert mfcc["abx_across"].method == "jackknife"
    done = run("compare", "mfcc", MODEL, "--task", "abx_word", "--results", tmp_path / "out")
    assert done.stdout.count("mfcc is better") == 2
