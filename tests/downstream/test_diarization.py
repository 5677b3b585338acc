"""SUPERB's SD: head, loss, labels, accuracy and turns against s3prl's; and the whole path."""

import contextlib
import importlib
import io
import json
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from lhotse import MonoCut, SupervisionSegment
from lhotse.utils import fastcopy

from builders import RATE, call, rendered
from mt4ssl_bench.corpora.prepare import prepare
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import Cut, Turn
from mt4ssl_bench.data.turns import from_text, to_frames
from mt4ssl_bench.downstream.evaluate import evaluate
from mt4ssl_bench.downstream.job import Job
from mt4ssl_bench.downstream.plan import load_config, plan
from mt4ssl_bench.downstream.tasks.diarization import (
    Diarization,
    DiarizationConfig,
    DiarizationHead,
    LSTMHeadConfig,
)
from mt4ssl_bench.errors import ConfigError, CorpusError
from mt4ssl_bench.results import load
from mt4ssl_bench.results.leaderboard import Leaderboard
from mt4ssl_bench.results.show import report

LAYERS, DIM, STRIDE = 3, 12, 320
KEYS = ("sweep=[0.02]", "steps=60", "validate_every=20", "head.hidden=16")


@pytest.fixture(scope="module")
def s3prl() -> Any:
    """Import a module of s3prl's diarization; its h5py, which only writes files, is a stand-in."""
    pytest.importorskip("s3prl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "h5py", ModuleType("h5py"))

        def named(module: str) -> Any:
            with contextlib.redirect_stdout(io.StringIO()):
                return importlib.import_module(f"s3prl.downstream.diarization.{module}")

        yield named


def a_cut(seconds: float, *turns: Turn, name: str = "rec") -> Cut:
    cut = MonoCut(name, 0.0, seconds, 0, custom={"turns": {"speakers": [list(t) for t in turns]}})
    return fastcopy(cut, supervisions=[SupervisionSegment(name, name, 0.0, seconds)])


def a_task(speakers: int = 2, **keys: Any) -> Diarization:
    task = Diarization(DiarizationConfig(speakers=speakers, **keys))
    task.speakers = speakers
    return task


def test_the_head_is_s3prls_with_the_same_weights(s3prl: Any) -> None:
    torch.manual_seed(0)
    head = DiarizationHead(LAYERS, DIM, 2, LSTMHeadConfig(hidden=20))
    head.sum.scores.data = torch.linspace(-1, 1, LAYERS)
    theirs = s3prl("model").Model(DIM, 2, rnn_layers=1, hidden_size=20)
    theirs.rnn.load_state_dict(head.rnn.state_dict())
    theirs.linear.load_state_dict(head.output.state_dict())
    cuts = [a_cut(seconds) for seconds in (0.99, 0.415, 0.31)]  # 49, 20 and 15 frames
    frames = torch.tensor([47, 20, 17])  # too few, equal, too many
    features = torch.randn(LAYERS, 3, 47, DIM)
    x, lengths = a_task().match(cuts, features, frames)
    logits, counts = head(x, lengths)
    assert counts.tolist() == [49, 20, 15]
    expert = s3prl("expert").DownstreamExpert
    for row, (count, wanted) in enumerate(zip(frames.tolist(), counts.tolist(), strict=True)):
        one = head.sum(features[:, row : row + 1, :count])
        matched, _ = expert._match_length(None, one, torch.zeros(1, wanted, 2))
        torch.testing.assert_close(
            logits[row : row + 1, :wanted], theirs(matched), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("speakers", [2, 3])
def test_the_loss_is_s3prls_on_the_same_logits(s3prl: Any, speakers: int) -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([31, 47, 12])
    logits = (3 * torch.randn(3, 47, speakers)).requires_grad_()
    targets = [torch.randint(2, (length, speakers)).float() for length in lengths.tolist()]
    labels = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True)
    ours = a_task(speakers).loss(logits, lengths, targets).mean()
    (gradient,) = torch.autograd.grad(ours, logits)
    theirs, _, _ = s3prl("utils").pit_loss(logits, labels, lengths)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(gradient, torch.autograd.grad(theirs, logits)[0])
    two_heads = torch.cat([logits, 2 * logits])
    rows = a_task(speakers).loss(two_heads, lengths.repeat(2), targets * 2).view(2, 3).mean(1)
    torch.testing.assert_close(rows[0], ours)  # heads of a sweep do not depend on each other


def test_a_loss_that_is_not_finite_stays_so() -> None:
    logits = torch.full((1, 5, 2), float("nan"))
    assert a_task().loss(logits, torch.tensor([5]), [torch.zeros(5, 2)]).isnan().all()


def random_turns(seed: int, seconds: float, speakers: str = "ba") -> list[Turn]:
    rng = np.random.default_rng(seed)
    starts = rng.uniform(0, seconds, 8).round(2)
    return [
        Turn(
            start,
            round(min(start + rng.uniform(0.02, 1.0), seconds), 2),
            rng.choice(list(speakers)),
        )
        for start in starts
        if start < seconds - 0.05
    ]


def test_labels_are_those_of_s3prls_dataset(s3prl: Any, tmp_path: Path) -> None:
    recordings = {f"r{seed}": random_turns(seed, 2.0 + 0.1 * seed) for seed in range(8)}
    lines: dict[str, list[str]] = {
        name: [] for name in ("wav.scp", "segments", "utt2spk", "reco2dur")
    }
    for number, (name, turns) in enumerate(recordings.items()):
        seconds = 2.0 + 0.1 * number
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(round(seconds * RATE)), RATE)
        lines["wav.scp"].append(f"{name} {tmp_path / name}.wav")
        lines["reco2dur"].append(f"{name} {seconds:.2f}")
        for n, turn in enumerate(turns):
            lines["segments"].append(f"{name}-{n} {name} {turn.start} {turn.end}")
            lines["utt2spk"].append(f"{name}-{n} {turn.label}")
    for file, content in lines.items():
        (tmp_path / file).write_text("\n".join(content) + "\n")
    dataset = s3prl("dataset").DiarizationDataset(
        "train", tmp_path, frame_shift=STRIDE, num_speakers=2
    )
    assert len(dataset) == len(recordings)
    for number, (name, turns) in enumerate(recordings.items()):
        audio, labels = dataset[number]
        ours = a_task().target(a_cut(len(audio) / RATE, *turns, name=name))
        np.testing.assert_array_equal(ours, labels)


def test_frame_accuracy_is_s3prls(s3prl: Any) -> None:
    utils, task, compared = s3prl("utils"), a_task(), 0
    for seed in range(20):
        torch.manual_seed(seed)
        cut = a_cut(3.0, *random_turns(seed, 3.0))
        labels, lengths = task.target(cut)[None], torch.tensor([150])
        logits = 2 * labels[..., [1, 0]] - 1 + torch.randn(1, 150, 2).cumsum(1) / 8
        _, best, orders = utils.pit_loss(logits, labels, lengths)
        ordered = utils.get_label_perm(labels, best, orders)
        correct = utils.calc_diarization_error(logits, ordered, lengths)[0]
        (answer,) = task.answers([cut], task.decode(logits, lengths))
        others = [float((ordered == (logits > 0)).float().mean()), 0.0]
        others[1] = float((ordered[..., [1, 0]] == (logits > 0)).float().mean())
        if others[0] >= others[1]:  # theirs is under the order of the lowest loss
            compared += 1
            assert answer["values"]["frame_acc"] == pytest.approx(100 * correct / 150)
        else:
            assert answer["values"]["frame_acc"] == pytest.approx(100 * others[1])
    assert compared >= 15


@pytest.mark.parametrize("median", [1, 11])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_turns_are_those_of_s3prls_script(
    s3prl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threshold: float, median: int
) -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 200, 2).cumsum(1) / 2
    chances = logits.sigmoid()[0].numpy()

    class File(dict[str, np.ndarray]):
        def __init__(self, *_: str) -> None:
            super().__init__(T_hat=chances)

    monkeypatch.setattr(sys.modules["h5py"], "File", File, raising=False)
    (tmp_path / "list").write_text(f"{tmp_path / 'rec.h5'}\n")
    out = tmp_path / "rttm"
    keys = f"--threshold={threshold} --frame_shift={STRIDE} --median={median}".split()
    monkeypatch.setattr(sys, "argv", ["make_rttm", str(tmp_path / "list"), str(out), *keys])
    runpy.run_path(s3prl("model").__file__.replace("model.py", "make_rttm.py"), run_name="__main__")
    theirs = [line.split() for line in out.read_text().splitlines()]
    (text,) = a_task()._texts(logits, torch.tensor([200]), threshold, median)
    ours = from_text(text)
    assert len(ours) > 2
    assert sorted((t.start, round(t.end - t.start, 2), int(t.label) - 1) for t in ours) == sorted(
        (float(cells[3]), float(cells[4]), int(cells[7][-1])) for cells in theirs
    )


def test_speakers_are_in_the_order_of_their_names() -> None:
    turns = [Turn(0.0, 0.04, "b"), Turn(0.02, 0.06, "a")]
    np.testing.assert_array_equal(
        to_frames(turns, (4, 2), STRIDE), [[0, 1], [1, 1], [1, 0], [0, 0]]
    )


# ---- the whole path ----


def conversation(
    seed: int, seconds: float = 3.0, speakers: int = 2
) -> tuple[np.ndarray, list[Turn]]:
    """Return tones of different pitch, and when each of them sounds."""
    rng = np.random.default_rng(seed)
    time, turns = np.arange(int(seconds * RATE)) / RATE, []
    samples = 0.003 * rng.standard_normal(len(time))
    for number in range(speakers):
        start, end = sorted(rng.uniform(0, seconds, 2).round(2))
        end = max(end, start + 0.3)
        active = (time >= start) & (time < end)
        samples += active * 0.2 * np.sin(2 * np.pi * (300.0, 1500.0, 3000.0)[number] * time)
        turns.append(Turn(start, min(end, seconds), "abc"[number]))
    return samples, turns


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Recordings of two speakers, some of them without speech, or with other numbers of them."""
    root, rows = tmp_path_factory.mktemp("talks"), []
    for number in range(24):
        split = ("train", "train", "valid", "test")[number % 4]
        speakers = {8: 0, 11: 0, 15: 3, 19: 1}.get(number, 2)
        samples, turns = conversation(number, speakers=speakers)
        path = root / f"r{number:02}.wav"
        soundfile.write(path, samples, RATE)
        tiers = {"speakers": tuple(turns)}
        rows.append(Row(id=path.stem, path=path, split=split, turns=tiers, silent=not turns))
    return prepare(rows, root / "corpus", source=root, name="talks", strict=True, synthetic=True)


@pytest.fixture(scope="module")
def evaluated(talks: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results")
    outcome = evaluate(
        ["fbank"], ["diarization"], talks.root, out=out, overrides=KEYS, device="cpu"
    )
    assert not outcome.failures
    return out


def test_the_record_has_parts_tuning_and_the_number_by_superbs_rule(evaluated: Path) -> None:
    (path,) = evaluated.glob("*.json")
    result = load(path)
    score, rule = result.main, result.metrics["der_by_rule"]
    assert (result.main_metric, score.over, score.unit) == ("der", "recordings", "%")
    assert score.total
    assert score.errors == score.substitutions + score.deletions + score.insertions
    assert score.value == pytest.approx(100 * score.errors / score.total)
    assert score.value < 80  # answering nothing is 100
    assert rule.value <= score.value
    assert not rule.ranked
    assert result.tuned.keys() == {"threshold", "median"}
    assert result.chosen_by == "frame accuracy % ↑"
    assert result.counts["test_silent_utterances"] == 1
    assert result.counts["test_unknown_units"] == 1  # the third speaker of r15
    (table,) = Leaderboard.from_folder(evaluated).tables
    assert [column.metric for column in table.columns] == ["der"]
    shown = rendered(report(path))
    for part in ("decoding, chosen on valid: threshold", "DER by SUPERB's rule", "false alarm"):
        assert part in shown
    assert "frame accuracy % ↑ on valid" in " ".join(shown.split())


def test_hypotheses_are_turns_as_text_and_as_rttm(evaluated: Path) -> None:
    (path,) = evaluated.glob("*.hyp.jsonl")
    answers = [json.loads(line) for line in path.read_text().splitlines()]
    assert {answer["id"] for answer in answers} == {f"r{n:02}" for n in range(3, 24, 4)}
    silent = next(answer for answer in answers if answer["id"] == "r11")
    assert (silent["reference"], silent["tokens"]) == ("", 0)
    (file,) = evaluated.glob("*.rttm")
    lines = [line.split() for line in file.read_text().splitlines()]
    assert len(lines) == sum(len(from_text(answer["hypothesis"])) for answer in answers)
    assert all(len(answer["variants"]) == 10 for answer in answers)


def test_the_command_line_finds_the_task_by_superbs_name_and_reuses_the_training(
    talks: Corpus, evaluated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "fbank", "--task", "SD", "--corpus", talks.root, "--out", evaluated]
    assert call(*arguments, *KEYS) == 0
    assert "already evaluated" in capsys.readouterr().err
    # another grid decodes the heads that are there
    assert call(*arguments, *KEYS, "decode.thresholds=[0.5]", "decode.medians=[1]") == 0
    records = [load(path) for path in evaluated.glob("*.json")]
    assert len(records) == 2
    one = next(record for record in records if record.tuned == {"threshold": 0.5, "median": 1})
    assert one.metrics["der_by_rule"].value == one.main.value
    assert len({json.dumps(record.sweep) for record in records}) == 1


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("mode=finetune",), "on frozen features only; expected mode=frozen"),
        (("decode.medians=[2]",), "decode.medians=.*: expected odd numbers of frames"),
        (("decode.thresholds=[1.0]",), "decode.thresholds=.*: expected numbers between 0 and 1"),
        (("speakers=-1",), "speakers=-1: expected 0 or more"),
    ],
)
def test_wrong_keys_are_said(talks: Corpus, keys: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan("diarization", talks, keys)


def test_more_speakers_than_outputs_and_no_speech_are_said(talks: Corpus, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="has 2 speakers in 'r00', and speakers=1"):
        plan("diarization", talks, ["speakers=1"])
    (fold,) = plan("diarization", talks, ["speakers=4"]).folds()
    assert fold.task.outputs == 4
    (fold,) = plan("diarization", talks).folds()
    assert fold.task.outputs == 2
    rows = [
        Row(
            id=f"q{n}",
            path=tmp_path / f"q{n}.wav",
            split=split,
            silent=True,
            turns={"speakers": ()},
        )
        for n, split in enumerate(("train", "valid", "test"))
    ]
    for row in rows:
        soundfile.write(row.path, np.random.default_rng(0).standard_normal(RATE) / 9, RATE)
    quiet = prepare(rows, tmp_path / "quiet", source=tmp_path, name="quiet", strict=True)
    with pytest.raises(CorpusError, match="needs turns of speakers, and nobody speaks"):
        plan("diarization", quiet)


def test_the_full_recipe_is_superbs(talks: Corpus) -> None:
    config = load_config("diarization")
    assert isinstance(config, DiarizationConfig)
    assert (config.steps, config.batch, config.accumulate, config.validate_every) == (
        30_000,
        8,
        4,
        500,
    )
    assert (config.head.hidden, config.head.lstm_layers, config.clip_norm) == (512, 1, 1.0)
    assert len(config.decode.thresholds) * len(config.decode.medians) == 10
    job = Job("diarization", config, talks, None)
    assert job.config.identity().keys() == {"steps", "batch", "accumulate", "validate_every"}
