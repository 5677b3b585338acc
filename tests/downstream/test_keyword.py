"""Keyword spotting: balanced draws as s3prl's, SUPERB's outputs in order, its recipe and effect."""

import importlib
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from builders import run
from fakes import Mirrored
from mt4ssl_bench import results
from mt4ssl_bench.corpora.prepare import prepare
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.data.batches import Batches
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import label_of
from mt4ssl_bench.data.effects import Gain
from mt4ssl_bench.downstream.config import HeadConfig
from mt4ssl_bench.downstream.evaluate import evaluate
from mt4ssl_bench.downstream.heads.linear import PooledHead
from mt4ssl_bench.downstream.job import Job
from mt4ssl_bench.downstream.plan import load_config, plan
from mt4ssl_bench.downstream.task import Task
from mt4ssl_bench.downstream.tasks.keyword import CLASSES, Keyword, balanced
from mt4ssl_bench.downstream.training.audio_batches import Audio

SIZES = {"yes": 1, "_unknown_": 8, "_silence_": 4, "open": 3, "go": 2}  # in train


@pytest.fixture(scope="module")
def commands(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """The tones as keywords: classes of unequal sizes in train, all the same in valid and test."""
    rows = []
    for split in corpus.info.splits:
        for number, cut in enumerate(corpus.cuts(split)):
            keyword = [name for name, size in SIZES.items() for _ in range(size)][number % 18]
            path = Path(str(cut.recording.sources[0].source))
            rows.append(Row(id=cut.id, path=path, split=split, labels={"keyword": keyword}))
    root = tmp_path_factory.mktemp("corpora") / "commands"
    return prepare(rows, root, source=root, name="commands", strict=True, synthetic=True)


def task_of(job: Job) -> Task:
    (fold,) = job.folds()
    return fold.task


@pytest.fixture
def s3prl(monkeypatch: pytest.MonkeyPatch) -> Any:
    """s3prl's expert of KS, with stand-ins for what it imports and does not need here.

    catalyst serves several processes; torchaudio has no sox effects since 2.9.
    """
    pytest.importorskip("s3prl")
    names = {
        "catalyst.data.sampler": "DistributedSamplerWrapper",
        "torchaudio.sox_effects": "apply_effects_file",
    }
    for module, name in names.items():
        stand_in = ModuleType(module)
        setattr(stand_in, name, None)
        monkeypatch.setitem(sys.modules, module, stand_in)
    for module in ("catalyst", "catalyst.data"):
        monkeypatch.setitem(sys.modules, module, ModuleType(module))
    return importlib.import_module("s3prl.downstream.speech_commands.expert")


def test_the_full_recipe_has_the_numbers_of_superb() -> None:
    config = load_config("keyword")
    assert (config.steps, config.batch, config.accumulate, config.validate_every) == (
        *(200_000, 32, 1, 5_000),
    )
    assert (config.head.projection, config.clip_norm, config.mode) == (256, 1, "frozen")
    assert config.sweep == (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
    assert config.crops_of("train").seconds == 0, "whole utterances"
    assert Keyword.effects == (Gain(-3.0),)
    assert Keyword.metrics == ("acc",)


def test_draws_have_the_odds_of_s3prls_sampler(s3prl: Any, tmp_path: Path) -> None:
    words = [
        (name, tmp_path / f"{name}-{n}.wav")
        for name, size in {"yes": 2, "no": 5, "bed": 3, "cat": 4}.items()
        for n in range(size)
    ]
    (tmp_path / "_background_noise_").mkdir()
    for name in ("tap", "pink"):
        (tmp_path / "_background_noise_" / f"{name}.wav").touch()
    theirs = s3prl.SpeechCommandsDataset(words, speech_commands_root=tmp_path)
    keywords = [name for name, _ in theirs.data]
    assert Counter(keywords) == {"yes": 2, "no": 5, "_unknown_": 7, "_silence_": 2}
    weights = np.array(theirs.sample_weights)
    np.testing.assert_allclose(balanced(keywords), weights / weights.sum(), rtol=1e-12)
    crops = balanced([*keywords[:-2], *["_silence_"] * 100])  # crops of both noises
    np.testing.assert_allclose(crops[:-100], balanced(keywords)[:-2])
    np.testing.assert_allclose(crops[-100:].sum(), 1 / 4)


def test_outputs_have_the_order_of_superb_and_others_stand_after_its_words(
    s3prl: Any, commands: Corpus
) -> None:
    assert list(CLASSES) == s3prl.CLASSES
    task = task_of(plan("KS", commands))
    assert task.state() == {"keywords": ["yes", "go", "open", "_unknown_", "_silence_"]}


def test_every_class_is_drawn_alike_and_valid_is_one_resample(commands: Corpus) -> None:
    job = plan("keyword", commands, ["batch=8"])
    task, cuts = task_of(job), job.cuts("train")
    assert len(cuts) == 18
    drawn: Counter[str] = Counter()
    epochs = []
    for epoch in range(400):
        places = task.draw(cuts, epoch, "train")
        assert places is not None
        assert len(places) == 16, "no batch is short"
        epochs.append(places.tolist())
        drawn.update(label_of(cuts[place], "keyword") for place in epochs[-1])
    assert epochs[0] != epochs[1], "every epoch has draws of its own"
    assert len(set(epochs[0])) < 16, "with replacement"
    share = 400 * 16 / 5
    deviation = (400 * 16 * 0.2 * 0.8) ** 0.5
    assert all(abs(count - share) < 4 * deviation for count in drawn.values()), drawn
    valid = job.cuts("valid")
    first, again = (task.draw(valid, 0, "valid") for _ in range(2))
    assert first is not None
    assert again is not None
    assert len(first) == len(valid)
    assert first.tolist() == again.tolist()
    other = task_of(plan("keyword", commands, ["seeds=1"])).draw(valid, 0, "valid")
    assert other is not None
    assert other.tolist() != first.tolist()


def test_batches_are_of_the_cuts_that_an_epoch_draws(commands: Corpus) -> None:
    cuts = list(commands.cuts("train"))
    places = [np.array([3, 3, 5, 7, 3]), np.array([1, 1, 1])]
    batches = Batches(cuts, list, count=2, shuffle=True, draw=lambda epoch: places[epoch])
    for epoch, expected in enumerate(places):
        made = list(batches(epoch))
        assert max(len(batch) for batch in made) == 2
        names = sorted(cut.id for batch in made for cut in batch)
        assert names == sorted(cuts[place].id for place in expected)
        assert [c.id for c in next(batches(epoch, 1))] == [c.id for c in made[1]], "resumed"


@pytest.mark.parametrize("role", ["train", "valid", "test"])
def test_fine_tuning_draws_too_but_never_on_test(commands: Corpus, role: str) -> None:
    job = plan("keyword_tiny", commands, ["mode=finetune", "tune.batch_seconds=3"])
    task, cuts = task_of(job), job.cuts(role)
    batches = Audio(task, cuts, role).batches(shuffle=role == "train")
    names = [[cut.id for batch in batches(epoch) for cut in batch.cuts] for epoch in range(3)]
    for epoch, drawn in enumerate(names):
        places = task.draw(cuts, epoch if role == "train" else 0, role)
        assert places is not None
        whole = [cut.id for cut in cuts]
        expected = whole if role == "test" else [whole[place] for place in places]
        if role == "train" or epoch == 0:
            assert sorted(drawn) == sorted(expected)


def test_the_head_is_s3prls_with_the_same_weights(s3prl: Any) -> None:
    """s3prl: projector, UtteranceLevel (mean, linear) and the mean cross entropy."""
    torch.manual_seed(0)
    layers, dim, lengths = 3, 20, torch.tensor([31, 47, 12])
    features = torch.randn(layers, 3, 47, dim)
    projector = torch.nn.Linear(dim, 16)
    model = s3prl.UtteranceLevel(input_dim=16, output_dim=12)
    ours = PooledHead(layers, dim, 12, HeadConfig(projection=16))
    ours.projection.load_state_dict(projector.state_dict())
    ours.output.load_state_dict(model.post_net.linear.state_dict())
    ours.sum.scores.data = torch.linspace(-1, 1, layers)
    summed = (features * ours.sum.weights[:, None, None, None]).sum(0)
    padded = [row[:count] for row, count in zip(summed, lengths, strict=True)]
    batch = torch.nn.utils.rnn.pad_sequence(padded, batch_first=True)
    expected, _ = model(projector(batch), lengths)
    found, _ = ours(features, lengths)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_keywords_are_scored_from_a_store_that_names_the_gain(
    commands: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Mirrored("mirror", "m1rr0r")
    monkeypatch.setattr(
        "mt4ssl_bench.downstream.rows.load_each", lambda *_, **__: [("mirror", model)]
    )
    keys = ("sweep=0.03,0.003", "steps=60", "validate_every=20")
    done = evaluate(
        ["mirror"], ["ks"], commands.root, out=tmp_path / "out", overrides=keys, device="cpu"
    )
    assert not done.failures
    (result,) = done.results
    assert result.main.title == "ACC"
    assert result.recipe_name == "keyword_tiny"
    (file,) = (tmp_path / "out" / "store").glob("*/train.*.bin")
    assert "+gain-3.0dB-" in file.name


@pytest.mark.long
@pytest.mark.speech
def test_real_commands_are_classified_through_the_command_line(
    speech: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "commands", tmp_path / "results"
    root = speech / "tasks" / "arabic_speech_commands_mini"
    done = run(*("prepare", "speechcommands", "--from", root, "--noise-crops", 20, "--out", folder))
    assert done.returncode == 0, done.stderr
    keys = ["sweep=1e-3", "steps=200", "validate_every=100"]
    upstreams = ["fbank", "fbank_no_cmvn"]
    done = run("evaluate", *upstreams, "--task", "KS", "--corpus", folder, "--out", out, *keys)
    assert done.returncode == 0, done.stderr
    assert "task keyword: recipe keyword_tiny for 0.21 h" in done.stderr
    scores = {}
    for file in out.glob("keyword-*.json"):
        record, answers = results.load(file), results.load_hypotheses(file)
        assert len(answers) == 159
        assert len({answer["id"] for answer in answers}) == 159, "test has every file once"
        right = sum(answer["reference"] == answer["hypothesis"] for answer in answers)
        assert record.main.value == pytest.approx(100 * right / 159)
        scores[record.upstream["name"]] = record.main
    # fbank has no mean: what remains is chance
    assert scores["fbank_no_cmvn"].low > scores["fbank"].high
    done = run("evaluate", "fbank", "--task", "KS", "--corpus", folder, "--out", out, *keys)
    assert "already evaluated" in done.stderr
