"""Label tasks: one or several labels of an utterance, folds, and a task of another package."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import random_split

from builders import python, run, spoken
from fakes import Folded, Spectrum
from mt4ssl_bench import results
from mt4ssl_bench.corpora.prepare import prepare
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import Cut, field_of, speaker_of, text_of
from mt4ssl_bench.data.effects import Effect, Gain
from mt4ssl_bench.downstream.dry_run import estimate
from mt4ssl_bench.downstream.evaluate import Outcome, evaluate
from mt4ssl_bench.downstream.heads.labels import LabelTask
from mt4ssl_bench.downstream.job import ROLES
from mt4ssl_bench.downstream.plan import plan
from mt4ssl_bench.downstream.task import TASKS
from mt4ssl_bench.downstream.tasks.abx import ABX
from mt4ssl_bench.downstream.tasks.speaker import Speaker, SpeakerConfig
from mt4ssl_bench.downstream.training.choose_rate import choose
from mt4ssl_bench.downstream.training.finetune import Finetuning
from mt4ssl_bench.encoders import load
from mt4ssl_bench.errors import ConfigError, CorpusError, TrainingError
from mt4ssl_bench.results.answers import by_seed
from mt4ssl_bench.results.metrics import METRICS

TOY = f"random:{Path(__file__).parents[1] / 'fixtures' / 'toy.yaml'}"
RECIPE = "about: moods of tones\ntask: {task}\nsteps: 150\nvalidate_every: 50\nsweep: [0.1, 0.01]\n"


class Mood(LabelTask):
    name: ClassVar[str] = "mood"
    labels: ClassVar[tuple[str, ...]] = ("mood",)


class Joint(LabelTask):
    name: ClassVar[str] = "joint"
    labels: ClassVar[tuple[str, ...]] = ("mood", "speaker")


@pytest.fixture(autouse=True)
def tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (Mood, Joint, Folded):
        monkeypatch.setitem(TASKS._addresses, kind.name, f"{kind.__module__}:{kind.__name__}")


@pytest.fixture(scope="module")
def moods(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """The tones with a mood and one of three folds each."""
    rows = []
    for split in corpus.info.splits:
        for cut in corpus.cuts(split):
            mood = "glad" if "HIGH" in text_of(cut) else "calm"
            labels = {"mood": mood, "fold": f"part {len(rows) % 3}"}
            path, speaker = Path(str(cut.recording.sources[0].source)), speaker_of(cut)
            rows.append(Row(id=cut.id, path=path, speaker=speaker, split=split, labels=labels))
    root = tmp_path_factory.mktemp("corpora") / "moods"
    return prepare(rows, root, source=root, name="moods", synthetic=True)


def recipe(folder: Path, task: str) -> str:
    folder.mkdir(exist_ok=True)
    file = folder / f"{task}.yaml"
    file.write_text(RECIPE.format(task=task))
    return str(file)


def evaluated(corpus: Corpus, folder: Path, task: str, *keys: str) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "load_upstream", lambda name, device: Spectrum(name))  # noqa: ARG005
        return evaluate(
            ["good"], [recipe(folder, task)], corpus.root, out=folder, device="cpu", overrides=keys
        )


def test_a_label_is_learnt_and_its_accuracy_scored(moods: Corpus, tmp_path: Path) -> None:
    (result,) = evaluated(moods, tmp_path, "mood").results
    accuracy = result.metrics["acc"]
    assert accuracy.value == 100
    assert accuracy.label == "ACC % ↑"
    answers = results.load_hypotheses(results.record_path(result, tmp_path))
    assert all(answer["hypothesis"] in {"calm", "glad"} for answer in answers)
    assert answers[0]["labels"].keys() == {"mood", "fold"}


def test_several_labels_are_right_together_or_not_at_all(moods: Corpus, tmp_path: Path) -> None:
    job = plan(recipe(tmp_path, "joint"), moods)
    (fold,) = job.folds()
    task, cuts = fold.task, fold.cuts["test"]
    assert task.outputs == 2 + 3
    assert task.state() == {"moods": ["calm", "glad"], "speakers": ["spk0", "spk1", "spk2"]}
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    targets = [task.target(cut) for cut in cuts]
    expected = sum(
        F.cross_entropy(block, torch.stack(targets)[:, column], reduction="none")
        for column, block in enumerate((logits[:, :2], logits[:, 2:]))
    )
    torch.testing.assert_close(task.loss(logits, torch.ones(3), targets), expected)
    mood, speaker = (field_of(cuts[0], name) for name in task.labels)
    assert task.units_in(cuts[0]) == [f"mood={mood}", f"speaker={speaker}"]
    assert task.reference(cuts[0]) == f"{mood}|{speaker}"
    ids = targets[0] + torch.tensor([0, 2])
    assert task.decode(torch.eye(5)[ids].sum(0, keepdim=True), torch.ones(1)) == [
        task.reference(cuts[0])
    ]
    other = task.decode(torch.eye(5)[ids[1:]] + torch.eye(5)[1 - ids[:1]], torch.ones(1))
    assert other[0].endswith(f"|{speaker}")
    assert task.measure(cuts[:1], other) == 0
    assert task.knows("mood=calm")
    assert not task.knows("mood=spk0")
    (result,) = evaluated(moods, tmp_path, "joint").results
    answers = results.load_hypotheses(results.record_path(result, tmp_path))
    right = sum(answer["reference"] == answer["hypothesis"] for answer in answers)
    assert result.metrics["acc"].value == pytest.approx(100 * right / 3)


def test_values_that_contain_the_sign_between_labels_are_refused_before_training() -> None:
    def cut(mood: str, speaker: str) -> Cut:
        return spoken(speaker=speaker).with_custom("labels", {"mood": mood})

    cuts = [cut("a|b", "c"), cut("a", "b|c")]
    with pytest.raises(
        CorpusError, match=r"^task 'joint': 1 values of label 'mood' contain '\|', .* 'a\|b'; .*$"
    ):
        Joint(Joint.Config()).fit_units(cuts)
    with pytest.raises(CorpusError, match=r"label 'speaker' contain '\|', for example 'b\|c'"):
        Joint(Joint.Config()).fit_units(cuts[1:])
    single = Mood(Mood.Config())  # nothing is joined
    single.fit_units(cuts)
    assert single.values == {"mood": ["a", "a|b"]}


def test_speakers_are_stored_as_they_were(corpus: Corpus) -> None:
    task = Speaker(SpeakerConfig())
    task.fit_units(list(corpus.cuts("train")))
    assert task.state() == {"speakers": ["spk0", "spk1", "spk2"]}
    assert (Speaker.reads, Speaker.version) == (("speaker",), 1)
    again = Speaker(SpeakerConfig())
    again.restore(task.state())
    assert again.values == task.values


def with_own(corpus: Corpus, *roles: str) -> Corpus:
    """The corpus with further splits sid_train, ... of the roles."""
    own = {f"sid_{role}": corpus.info.splits[role] for role in roles}
    splits = {**corpus.info.splits, **own}
    return Corpus(corpus.root, dataclasses.replace(corpus.info, splits=splits))


def test_speakers_are_identified_on_splits_of_their_own_if_there_are_some(corpus: Corpus) -> None:
    assert plan("speaker", corpus).split("train") == "train"
    for role in ROLES:
        shutil.copy(corpus.root / f"{role}.jsonl.gz", corpus.root / f"sid_{role}.jsonl.gz")
    own = with_own(corpus, *ROLES)
    assert [plan("speaker", own).split(role) for role in ROLES] == [f"sid_{r}" for r in ROLES]
    assert plan("asr", own).split("train") == "train"


@pytest.mark.parametrize(
    ("roles", "missing"),
    [(("train",), "sid_valid and no sid_test"), (("train", "test"), "sid_valid"),
     (("valid", "test"), "sid_train")],
)  # fmt: skip
def test_splits_of_identification_are_never_mixed_with_the_plain_ones(
    corpus: Corpus, roles: tuple[str, ...], missing: str
) -> None:
    own = with_own(corpus, *roles)
    with pytest.raises(CorpusError, match=f"it has no {missing}; expected all of sid_train, sid_"):
        plan("speaker", own)
    assert plan("asr", own).splits("test") == ["test"]


def test_a_task_without_training_needs_its_own_splits_only_for_what_it_reads(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ABX, "splits", "sid_")
    job = plan("abx_word", with_own(corpus, "test"))
    assert [job.splits(role) for role in job.roles] == [["sid_test"]]
    job = plan("abx_word", with_own(corpus, "train"))
    assert [job.splits(role) for role in job.roles] == [["valid"], ["test"]]


def test_a_label_that_a_corpus_lacks_is_named_with_those_that_it_has(
    moods: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Mood, "reads", ("mod",))
    with pytest.raises(
        CorpusError,
        match="cannot be used for task 'mood': it has no mod; this corpus has: fold, mood, "
        r"speaker; did you mean mood\?$",
    ):
        plan(recipe(tmp_path, "mood"), moods)
    for field in ("turns:speakers", "other:clean", "list:trials"):
        monkeypatch.setattr(Mood, "reads", (field,))
        with pytest.raises(CorpusError, match=f"it has no {field}; this corpus has: fold, mood"):
            plan(recipe(tmp_path, "mood"), moods)


def test_each_fold_is_tested_by_a_head_that_never_saw_it_from_one_store(
    moods: Corpus, tmp_path: Path
) -> None:
    folds = plan(recipe(tmp_path, "folded"), moods).folds()
    assert [fold.name for fold in folds] == ["part 0", "part 1", "part 2"]
    for fold in folds:
        assert {field_of(cut, "fold") for cut in fold.cuts["test"]} == {fold.name}
        ids = [{cut.id for cut in fold.cuts[role]} for role in ("train", "valid", "test")]
        assert sum(map(len, ids)) == len(set().union(*ids)) == 24
        assert len(ids[1]) == 4  # a fifth of 16
    (result,) = evaluated(moods, tmp_path, "folded").results
    answers = results.load_hypotheses(results.record_path(result, tmp_path))
    assert len({answer["id"] for answer in answers}) == 24
    assert result.folds.keys() == {"part 0", "part 1", "part 2"}
    for name, value in result.folds.items():
        own = [a for a in answers if a["labels"]["fold"] == name]
        right = sum(a["reference"] == a["hypothesis"] for a in own)
        assert value == pytest.approx(100 * right / len(own))
    score = result.metrics["fold_acc"]
    assert result.main_metric == "fold_acc"
    assert score.value == pytest.approx(sum(result.folds.values()) / 3)
    assert score.low <= score.value <= score.high
    assert [trial["lr"] for trial in result.sweep] == [0.1, 0.01]
    assert sum(trial["chosen"] for trial in result.sweep) == 1
    assert result.corpus["splits"]["test"]["utterances"] == 24
    assert len(list((tmp_path / "store").glob("*/*.index"))) == 1


def test_each_seed_has_a_head_of_every_fold(moods: Corpus, tmp_path: Path) -> None:
    (result,) = evaluated(moods, tmp_path, "folded", "seeds=[1,2]", "steps=5").results
    parts = by_seed(results.load_hypotheses(results.record_path(result, tmp_path)))
    score = result.metrics["fold_acc"]
    for seed, answers in parts.items():
        assert len({answer["id"] for answer in answers}) == 24
        assert score.by_seed[seed] == pytest.approx(METRICS.get("fold_acc").value(answers))
    assert score.value == pytest.approx(sum(score.by_seed.values()) / 2)
    assert score.value == pytest.approx(sum(result.folds.values()) / 3)


def test_the_best_rate_is_that_of_the_mean_over_folds() -> None:
    def trials(*scores: float | None) -> list[results.Trial]:
        return [
            {"lr": 10.0**-n, "seed": 0, "valid": score, "steps": n, "chosen": False}
            for n, score in enumerate(scores)
        ]

    accuracy = METRICS.get("acc")
    chosen = choose([trials(90, 60, None), trials(10, 60, 99)], accuracy, "row")
    assert [trial["valid"] for trial in chosen] == [50, 60, None]
    assert [trial["chosen"] for trial in chosen] == [False, True, False]
    assert choose([trials(7, 7)], accuracy, "row")[0]["chosen"], "the first of two equal ones"
    with pytest.raises(
        TrainingError, match=r"row: training failed at every learning rate of \[1.0, 0.1\]"
    ):
        choose([trials(None, 1), trials(1, None)], accuracy, "row")


def test_valid_of_a_fold_is_the_fifth_that_s3prl_draws(moods: Corpus) -> None:
    cuts: list[Cut] = list(moods.cuts("train"))
    torch.manual_seed(0)
    train, valid = random_split(cuts, [14, 4])  # type: ignore[arg-type]
    ours = Folded(Folded.Config()).hold_out(cuts)
    assert [[cut.id for cut in part] for part in ours] == [
        [c.id for c in p] for p in (train, valid)
    ]


class Quiet(Mood):
    name: ClassVar[str] = "quiet"
    effects: ClassVar[tuple[Effect, ...]] = (Gain(-3),)


def test_tasks_with_other_effects_share_no_features_and_those_with_equal_ones_do(
    moods: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TASKS._addresses, "quiet", f"{__name__}:Quiet")
    entries = []
    for task in ("mood", "joint", "quiet", "quiet"):
        assert not evaluated(moods, tmp_path, task).failures
        entries.append(len(list((tmp_path / "store").glob("*/*.index"))))
    assert entries == [3, 3, 6, 6], "train, valid and test of each"


def test_folds_are_fine_tuned_and_an_interrupted_call_goes_on_with_the_next_rate(
    moods: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ["mode=finetune", "steps=2", "validate_every=1", "sweep=[1e-2, 1e-3]"]
    keys += ["tune.batch_seconds=8", "tune.workers=0", "seeds=3"]
    file, trained, fit = recipe(tmp_path, "folded"), 0, Finetuning.fit

    def tuned(out: Path) -> Outcome:
        return evaluate([TOY], [file], moods.root, out=out, overrides=keys, device="cpu")

    def stop(self: Finetuning, *arguments: Any) -> None:
        nonlocal trained
        trained += 1
        if trained == 4:
            raise MemoryError
        fit(self, *arguments)

    (whole,) = tuned(tmp_path / "whole").results
    monkeypatch.setattr(Finetuning, "fit", stop)
    assert tuned(tmp_path / "parts").failures
    assert trained == 4
    (again,) = tuned(tmp_path / "parts").results
    folds = len(whole.folds)
    assert trained == 4 + 2 * folds - 3, "three of the trainings were kept"
    assert (again.metrics, again.folds, again.sweep) == (whole.metrics, whole.folds, whole.sweep)
    assert again.mode == "finetune"
    assert again.main.value == pytest.approx(sum(again.folds.values()) / folds)
    assert sorted(answer["id"] for answer in results.load_hypotheses(
        next((tmp_path / "parts").glob("folded-*.json"))
    )) == sorted(cut.id for split in moods.info.splits for cut in moods.cuts(split)
                 if not split.startswith("sid_"))  # fmt: skip
    planned = estimate([TOY], [file], moods.root, out=tmp_path, overrides=keys, device="cpu")
    assert planned.rows[0].about.startswith(f"to do: 2 updates of the model, {2 * folds} times;")
    frozen = estimate([TOY], [file], moods.root, out=tmp_path, overrides=keys[1:4], device="cpu")
    assert frozen.rows[0].about == f"to do: 2 updates of {2 * folds} heads at once"
    kept = sorted((tmp_path / "parts" / "runs").rglob("model.pt"))
    assert [model.parent.name for model in kept] == [f"fold-{n}" for n in range(1, folds + 1)]


def test_a_task_without_a_recipe_says_so(moods: Corpus) -> None:
    with pytest.raises(ConfigError, match=r"task 'mood': has no recipe; expected mood\.yaml in"):
        plan("mood", moods)


TASK = """
from mt4ssl_bench.downstream.heads.labels import LabelTask
class Mood(LabelTask):
    name, labels, version = "temper", ("mood",), 3
"""


@pytest.mark.long
def test_a_task_of_another_package_is_one_class_and_one_recipe(
    moods: Corpus, tmp_path: Path
) -> None:
    site, out = tmp_path / "site", tmp_path / "out"
    info = site / "plug-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n")
    groups = {"tasks": "temper = plug.task:Mood", "recipes": "plug = plug"}
    points = [f"[mt4ssl_bench.{group}]\n{point}\n" for group, point in groups.items()]
    (info / "entry_points.txt").write_text("".join(points))
    (site / "plug").mkdir()
    (site / "plug" / "__init__.py").touch()
    (site / "plug" / "task.py").write_text(TASK)
    text = RECIPE.format(task="temper") + "tiny: {sweep: [0.1], about: the same in short}\n"
    (site / "plug" / "temper.yaml").write_text(text)
    where = {"PYTHONPATH": str(site)}
    listed = run("list", "tasks", **where).stdout
    assert re.search(r"(?m)^temper_tiny +the same in short", listed)
    command = ["evaluate", "fbank", "--task", "temper", "--corpus", moods.root, "--out", out]
    planned = run(*command, "--dry-run", **where)
    assert "fbank, temper_tiny on moods: to do: 150 updates of 1 heads at once" in planned.stdout
    done = run(*command, **where)
    assert done.returncode == 0, done.stderr
    assert "ACC % ↑" in done.stdout
    (file,) = out.glob("temper-fbank-*.json")
    record = json.loads(file.read_text())
    assert (record["task"], record["task_version"], record["main_metric"]) == ("temper", 3, "acc")
    code = "from mt4ssl_bench.downstream.task import TASKS; print(TASKS.get('temper').__module__)"
    assert python(code, PYTHONPATH=str(site)).strip() == "plug.task"
