"""SUPERB's pooled tasks ER and IC: names, recipes, folds and joint accuracy, on real speech too."""

import dataclasses
import json
import logging
from pathlib import Path

import pytest

from builders import run
from mt4ssl_bench import results
from mt4ssl_bench.config import recipe_names
from mt4ssl_bench.corpora.prepare import prepare
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.corpus_info import SplitInfo
from mt4ssl_bench.data.cut import Cut, field_of, speaker_of, text_of
from mt4ssl_bench.downstream.evaluate import evaluate
from mt4ssl_bench.downstream.plan import load_config, plan, recipe_for
from mt4ssl_bench.downstream.task import TASKS
from mt4ssl_bench.errors import ConfigError, CorpusError

KEYS = ("sweep=0.1", "steps=20", "validate_every=20")


def labelled(
    corpus: Corpus, root: Path, emotions: dict[str, str] | None = None, folds: int = 3
) -> Corpus:
    """Prepare the tones with an emotion, a fold and the three labels of an intent.

    `emotions` are those of whole folds instead.
    """
    rows: list[Row] = []
    for split in corpus.info.splits:
        for cut in corpus.cuts(split):
            fold = str(1 + len(rows) % folds)
            high = "HIGH" in text_of(cut)
            labels = {
                "fold": fold,
                "emotion": (emotions or {}).get(fold, ("ang", "sad")[len(rows) // 3 % 2]),
                "action": "raise" if high else "lower",
                "object": "none" if len(rows) % 2 else "lights",
                "location": ("none", "kitchen", "washroom")[len(rows) % 3],
            }
            path = Path(str(cut.recording.sources[0].source))
            speaker = speaker_of(cut)
            rows.append(Row(id=cut.id, path=path, speaker=speaker, split=split, labels=labels))
    return prepare(rows, root, source=root, name="labelled", synthetic=True)


@pytest.fixture(scope="module")
def tones(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return labelled(corpus, tmp_path_factory.mktemp("corpora") / "labelled")


def sized(corpus: Corpus, **hours: float) -> Corpus:
    """Return a corpus that states other hours of its splits."""
    splits = {
        name: SplitInfo(utterances=9, hours=value, speakers=3) for name, value in hours.items()
    }
    return Corpus(corpus.root, dataclasses.replace(corpus.info, splits=splits))


@pytest.mark.parametrize(
    ("task", "numbers"),
    [("emotion", (30_000, 4, 8, 1_000)), ("intent", (200_000, 32, 1, 5_000))],
)
def test_full_recipes_have_the_numbers_of_superb(task: str, numbers: tuple[int, ...]) -> None:
    config = load_config(task)
    assert (config.steps, config.batch, config.accumulate, config.validate_every) == numbers
    assert (config.head.projection, config.clip_norm, config.mode) == (256, 1, "frozen")
    assert config.sweep == (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
    assert config.crops_of("train").seconds == 0, "whole utterances"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("short", "recipe"),
    [
        ("PR", "phoneme_tiny"),
        ("asr", "asr_tiny"),
        ("ASR", "asr_tiny"),
        ("sid", "speaker_tiny"),
        ("Er", "emotion_tiny"),
        ("IC", "intent_tiny"),
    ],
)
def test_abbreviations_of_superb_name_tasks_in_any_case(
    tones: Corpus, corpus: Corpus, short: str, recipe: str
) -> None:
    assert recipe_for(short, tones) == recipe
    job = plan(short, corpus if recipe in {"phoneme_tiny", "asr_tiny"} else tones)
    assert (job.recipe, f"{job.config.task}_tiny") == (recipe, recipe)


def test_every_task_of_superb_has_an_abbreviation_of_its_own_and_a_size() -> None:
    shorts = [kind.superb for _, kind in TASKS.items() if kind.superb]  # ABX is no task of SUPERB's
    names = "ASR ASV ER IC KS PR QbE SD SE SF SID SS"
    assert sorted(shorts) == names.split()
    with pytest.raises(ConfigError, match="unknown task 'EX'; known: abx, "):
        load_config("EX")


@pytest.mark.parametrize(
    ("task", "hours", "expected"),
    [
        ("asr", {"train": 100.6}, "asr"),
        ("asr", {"train": 49.9}, "asr_tiny"),
        ("speaker", {"train": 14.7}, "speaker_tiny"),
        ("intent", {"train": 14.7}, "intent"),  # Fluent Speech Commands
        ("intent", {"train": 9.9}, "intent_tiny"),
        ("diarization", {"train": 56.4}, "diarization"),  # Libri2Mix, mode max
        ("emotion", {"train": 7.0}, "emotion"),  # IEMOCAP, whose splits are one
        ("emotion", {"train": 4.0, "valid": 0.5, "test": 0.5}, "emotion"),  # folds take all
        ("emotion", {"train": 4.0, "valid": 0.5}, "emotion_tiny"),
        ("enhancement", {"train": 8.6}, "enhancement"),  # VoiceBank-DEMAND without its valid
        ("separation", {"train": 43.3}, "separation"),  # Libri2Mix, mode min
        ("separation", {"train": 19.9}, "separation_tiny"),
    ],
)
def test_a_name_means_the_full_recipe_from_the_size_of_its_task_on(
    tones: Corpus,
    caplog: pytest.LogCaptureFixture,
    task: str,
    hours: dict[str, float],
    expected: str,
) -> None:
    with caplog.at_level(logging.INFO):
        assert recipe_for(task, sized(tones, **hours)) == expected
    total = sum(hours.values())
    assert f"task {task}: recipe {expected} for {total:.2f} h of training audio" in caplog.text
    assert recipe_for(f"{task}_tiny", sized(tones, **hours)) == f"{task}_tiny"
    assert {task, expected} <= set(recipe_names())


def test_an_intent_is_right_if_all_its_labels_are(tones: Corpus) -> None:
    (fold,) = plan("intent", tones).folds()
    task = fold.task
    assert task.outputs == 2 + 2 + 3
    one = next(cut for cut in fold.cuts["train"] if field_of(cut, "location") == "kitchen")
    action, thing, place = (field_of(one, name) for name in ("action", "object", "location"))
    assert task.reference(one) == f"{action}|{thing}|kitchen"
    hypotheses = [
        f"{action}|{thing}|{place}",  # right
        f"{action}|{thing}|none",  # two of three
        f"{action}|{place}|{thing}",  # the right words in the wrong places
        "||",
    ]
    assert task.measure([one] * 4, hypotheses) == 25.0


def test_other_labels_of_a_corpus_are_intents_and_part_of_the_identity(tones: Corpus) -> None:
    plain = plan("intent", tones)
    assert "labels" not in plain.config.identity(), "a default leaves records as they are"
    job = plan("intent", tones, ["labels=location,emotion"])
    assert job.config.identity()["labels"] == ["location", "emotion"]
    (fold,) = job.folds()
    assert list(fold.task.state()) == ["locations", "emotions"]
    assert fold.task.outputs == 3 + 2
    again = job.kind(job.config)
    again.restore(fold.task.state())
    assert again.reference(fold.cuts["test"][0]) == fold.task.reference(fold.cuts["test"][0])
    with pytest.raises(CorpusError, match="it has no actoin; this corpus has: .*did you mean act"):
        plan("intent", tones, ["labels=actoin"])
    with pytest.raises(ConfigError, match="expected one or several different labels of the corpus"):
        plan("intent", tones, ["labels=action,action"])


def test_the_score_of_folds_is_their_mean_whatever_their_sizes(tones: Corpus) -> None:
    task = plan("emotion", tones).folds()[0].task
    cuts: dict[str, list[Cut]] = {}
    for cut in plan("emotion", tones).cuts("test"):
        cuts.setdefault(field_of(cut, "fold"), []).append(cut)
    chosen = [*cuts["1"][:4], *cuts["2"][:2], *cuts["3"][:1]]
    right = [True, True, True, False, True, False, False]  # 75 %, 50 %, 0 %
    hypotheses = [task.reference(cut) if ok else "?" for cut, ok in zip(chosen, right, strict=True)]
    assert task.measure(chosen, hypotheses) == pytest.approx((75 + 50 + 0) / 3)


def test_a_fold_that_lacks_a_class_is_named_and_counted(
    corpus: Corpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = labelled(corpus, tmp_path / "corpus", {"2": "ang"})
    outcome = evaluate(
        ["fbank"], ["ER"], made.root, out=tmp_path / "out", overrides=KEYS, device="cpu"
    )
    assert not outcome.failures
    said = "emotion_tiny: test of fold 2 lacks 1 of 2 classes, which its accuracy does not measure"
    assert f"{said}: sad" in caplog.text
    assert outcome.results[0].counts["fold_lacks_classes"] == 1


def test_a_class_in_one_fold_only_is_counted_where_that_fold_is_tested(
    corpus: Corpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = labelled(corpus, tmp_path / "corpus", {"3": "hap"})
    outcome = evaluate(
        ["fbank"], ["ER"], made.root, out=tmp_path / "out", overrides=KEYS, device="cpu"
    )
    (failure,) = outcome.failures
    assert failure.endswith(
        "nothing of split 'test of fold 3' is in the training split (hap in 8 utterances); both "
        "must share what is to be recognized"
    )
    assert "\n" not in failure


def test_folds_that_leave_one_class_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    made = labelled(corpus, tmp_path / "corpus", {"1": "ang", "2": "sad"}, folds=2)
    outcome = evaluate(
        ["fbank"], ["ER"], made.root, out=tmp_path / "out", overrides=KEYS, device="cpu"
    )
    (failure,) = outcome.failures
    assert "task 'emotion': fold 1 leaves 9 utterances with 1 classes (sad) for training" in failure
    assert not list((tmp_path / "out").glob("*.json"))


def test_one_emotion_only_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    made = labelled(corpus, tmp_path / "corpus", dict.fromkeys("123", "neu"))
    with pytest.raises(CorpusError, match="it needs two emotions, and has only 'neu' in the utt"):
        plan("emotion", made)


@pytest.mark.long
@pytest.mark.speech
def test_emotions_and_orders_are_classified_through_the_command_line(
    speech: Path, tmp_path: Path
) -> None:
    tasks = speech / "tasks"
    for name, labels in (
        ("emodb_2s", ("emotion", "fold")),
        ("picovoice_coffee_mini", ("roast", "numberOfShots")),
    ):
        options = [word for label in labels for word in ("--label", label)]
        done = run(
            "prepare", "table", tasks / name / "manifest.tsv", *options, "--out", tmp_path / name
        )
        assert done.returncode == 0, done.stderr
    out = ["--out", tmp_path / "results"]
    upstreams = ["fbank", "fbank_no_cmvn"]
    done = run("evaluate", *upstreams, "--task", "ER", "--corpus", tmp_path / "emodb_2s", *out)
    assert done.returncode == 0, done.stderr
    assert "task emotion: recipe emotion_tiny for 0.19 h" in done.stderr
    assert "emotion ACC (mean of folds) % ↑" in done.stdout
    scores = {}
    for file in (tmp_path / "results").glob("emotion-*.json"):
        record = json.loads(file.read_text())
        score = record["metrics"]["fold_acc"]
        answers = results.load_hypotheses(file)
        assert len(answers) == 339
        means = [
            sum(a["reference"] == a["hypothesis"] for a in part) / len(part)
            for fold in "12345"
            if (part := [a for a in answers if a["labels"]["fold"] == fold])
        ]
        assert score["value"] == pytest.approx(100 * sum(means) / 5)
        assert score["low"] < score["value"] < score["high"]
        assert score["speaker_low"] < score["value"] < score["speaker_high"]
        scores[record["upstream"]["name"]] = score
    # fbank has no mean: what remains is how often each emotion occurs
    assert scores["fbank_no_cmvn"]["low"] > scores["fbank"]["high"]
    coffee = [tmp_path / "picovoice_coffee_mini", "labels=roast,numberOfShots", *KEYS]
    done = run("evaluate", "fbank_no_cmvn", "--task", "ic", "--corpus", *coffee, *out)
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "results").glob("intent-*.json")
    answers = results.load_hypotheses(file)
    right = [
        all(a == b for a, b in zip(x["reference"].split("|"), x["hypothesis"].split("|"), strict=1))
        for x in answers
    ]
    assert len(right) == 50
    assert json.loads(file.read_text())["metrics"]["acc"]["value"] == pytest.approx(2 * sum(right))
    done = run("compare", *upstreams, "--task", "er", "--results", tmp_path / "results")
    assert "fbank_no_cmvn is better" in done.stdout, done.stdout
