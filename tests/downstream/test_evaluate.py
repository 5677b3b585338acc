"""The evaluation job: what is refused before any work, what a record holds, and what is not
computed twice.
"""

from pathlib import Path
from typing import Any

import pytest

from fakes import Spectrum
from mt4ssl_bench import results
from mt4ssl_bench.corpora.prepare_source import prepare_path
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.downstream import evaluate as job
from mt4ssl_bench.downstream.dry_run import estimate
from mt4ssl_bench.downstream.evaluate import evaluate
from mt4ssl_bench.downstream.plan import plan
from mt4ssl_bench.encoders import load
from mt4ssl_bench.errors import BenchError, ConfigError, CorpusError
from mt4ssl_bench.features import costs
from mt4ssl_bench.features.costs import Speeds
from mt4ssl_bench.results.leaderboard import Leaderboard
from mt4ssl_bench.training import run_folder

DATA = Path(__file__).parents[1] / "fixtures"
PHONEME, ASR, SPEAKER = (str(DATA / f"toy_{name}.yaml") for name in ("phoneme", "asr", "speaker"))


@pytest.fixture
def upstreams(monkeypatch: pytest.MonkeyPatch) -> dict[str, Spectrum]:
    made = {"good": Spectrum("good"), "broken": Spectrum("broken", broken=True)}
    monkeypatch.setattr(load, "load_upstream", lambda name, device: made[name])  # noqa: ARG005
    return made


def test_a_head_learns_to_read_the_tones(
    corpus: Corpus, upstreams: dict[str, Spectrum], tmp_path: Path
) -> None:
    outcome = evaluate(["good"], [PHONEME, ASR, SPEAKER], corpus.root, out=tmp_path, device="cpu")
    assert not outcome.failures
    per, wer, acc = (result.metrics[result.main_metric] for result in outcome.results)
    assert per.value < 50  # a head that knows nothing gives 80 and more
    assert per.low <= per.value <= per.high
    assert wer.total == 9  # the three test utterances hold three words each
    assert acc.total == 3
    first = outcome.results[0]
    assert [trial["lr"] for trial in first.sweep] == [0.1, 0.01]
    assert sum(trial["chosen"] for trial in first.sweep) == 1
    assert sum(first.layer_weights) == pytest.approx(1)
    assert len(first.layer_norms) == len(first.layer_weights)
    assert all(norm > 0 for norm in first.layer_norms)
    assert first.corpus["digest"] == corpus.info.digest
    assert set(first.wall_seconds) == {"features", "train", "test"}
    path = results.record_path(first, tmp_path)
    said = results.load_hypotheses(path)
    assert {row["id"] for row in said} == {"s0-0", "s1-0", "s2-0"}
    errors = sum(row["substitutions"] + row["deletions"] + row["insertions"] for row in said)
    assert errors == per.errors
    assert "good" in Leaderboard.from_folder(tmp_path).to_markdown()


def test_features_are_shared_and_records_reused(
    corpus: Corpus, upstreams: dict[str, Spectrum], tmp_path: Path
) -> None:
    model = upstreams["good"]
    evaluate(["good"], [PHONEME], corpus.root, out=tmp_path, device="cpu")
    once = model.calls
    assert once > 0
    evaluate(["good"], [ASR], corpus.root, out=tmp_path, device="cpu")
    assert model.calls == once, "another task reads the stored features"
    again = evaluate(["good"], [PHONEME, ASR], corpus.root, out=tmp_path, device="cpu")
    assert again.reused == 2
    changed = evaluate(
        ["good"], [PHONEME], corpus.root, out=tmp_path, device="cpu", overrides=["steps=5"]
    )
    assert changed.reused == 0
    assert model.calls == once


def test_the_same_seed_gives_the_same_record(
    corpus: Corpus, upstreams: dict[str, Spectrum], tmp_path: Path
) -> None:
    runs = [
        evaluate(
            ["good"], [PHONEME, SPEAKER], corpus.root, out=tmp_path / str(i), device="cpu"
        ).results
        for i in range(2)
    ]
    for a, b in zip(*runs, strict=True):
        assert (a.metrics, a.sweep, a.layer_weights) == (b.metrics, b.sweep, b.layer_weights)


def test_a_model_of_the_same_fingerprint_names_the_row_whose_record_it_has(
    corpus: Corpus,
    upstreams: dict[str, Spectrum],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    upstreams["twin"] = Spectrum("twin")
    upstreams["twin"].fingerprint = upstreams["good"].fingerprint
    with caplog.at_level("INFO"):
        outcome = evaluate(["good", "twin"], [PHONEME], corpus.root, out=tmp_path, device="cpu")
    assert outcome.reused == 1
    assert "twin, toy_phoneme: already evaluated, as good" in caplog.messages


def test_a_failed_row_does_not_stop_the_others(
    corpus: Corpus, upstreams: dict[str, Spectrum], tmp_path: Path
) -> None:
    outcome = evaluate(["broken", "good"], [PHONEME], corpus.root, out=tmp_path, device="cpu")
    assert len(outcome.results) == 1
    assert len(outcome.failures) == 1
    assert "broken" in outcome.failures[0]
    assert "NaN" in outcome.failures[0]


def test_a_row_that_fails_in_an_unforeseen_way_does_not_stop_the_others(
    corpus: Corpus, upstreams: dict[str, Spectrum], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = job.FrozenTraining

    def odd(model: Spectrum, *arguments: Any, **options: Any) -> Any:
        if model.name == "broken":
            raise ZeroDivisionError
        return train(model, *arguments, **options)

    monkeypatch.setattr(job, "FrozenTraining", odd)
    outcome = evaluate(["broken", "good"], [PHONEME], corpus.root, out=tmp_path, device="cpu")
    assert len(outcome.results) == 1
    assert outcome.failures == ["broken, toy_phoneme: ZeroDivisionError"]


def test_a_limited_run_is_marked_and_never_ranked(
    corpus: Corpus, upstreams: dict[str, Spectrum], tmp_path: Path
) -> None:
    outcome = evaluate(["good"], [PHONEME], corpus.root, out=tmp_path, device="cpu", limit=2)
    assert outcome.results[0].limit == 2
    assert not Leaderboard.from_folder(tmp_path).tables


def test_a_rate_that_diverges_leaves_the_others(
    corpus: Corpus, upstreams: dict[str, Spectrum], tmp_path: Path
) -> None:
    outcome = evaluate(
        ["good"],
        [PHONEME],
        corpus.root,
        out=tmp_path,
        device="cpu",
        overrides=["sweep=[1e30,1e-2]", "clip_norm=0"],
    )
    trials = outcome.results[0].sweep
    assert [trial["chosen"] for trial in trials] == [False, True]


def test_a_tasks_name_means_the_recipe_that_fits_the_corpus(corpus: Corpus) -> None:
    assert plan("asr", corpus).recipe == "asr_tiny"
    assert plan("phoneme_tiny", corpus, ["steps=7"]).config.steps == 7


@pytest.mark.parametrize(
    ("task", "overrides", "message"),
    [
        ("ars", [], "unknown task 'ars'; did you mean asr"),
        (
            "mt4ssl_tiny",
            [],
            "recipe mt4ssl_tiny: no task's recipe, it has no key 'task'; expected one ",
        ),
        ("asr", ["stepz=3"], "unknown key 'stepz'; did you mean steps"),
        ("asr", ["steps=many"], "steps"),
        ("asr", ["steps=0"], "steps=0: expected 1 or more"),
        ("asr", ["validate_every=0"], "validate_every=0: expected 1 or more"),
        ("asr", ["accumulate=0"], "accumulate=0"),
        ("asr", ["head.dropout=1"], "head.dropout=1.0: expected a number from 0 to below 1"),
        ("asr", ["seeds=-1"], r"seeds=\[-1\]: expected"),
        ("asr", ["decode.beam=0"], "decode.beam=0"),
        ("asr", ["store.limit_gb=-1"], "store.limit_gb=-1.0: expected 0 or more"),
        (
            "asr",
            ["units=phonemes"],
            "'units': Invalid value 'phonemes', expected one of .*characters.*sentencepiece",
        ),
        ("phoneme", ["units=sentencepiece"], "'units': .*expected one of .*phonemes"),
        ("asr", ["lexicon=cmudict"], "'lexicon': task 'asr' does not read it, only phoneme$"),
        (
            "asr",
            ["crops=4"],
            "override 'crops=4': key 'crops': .*'asr' .* only emotion, intent, keyword and speaker$",
        ),
        (
            "phoneme",
            ["head.hidden=4"],
            "'head.hidden': task 'phoneme' .* only asr, diarization, enhancement, separation and slots$",
        ),
        ("phoneme", ["decode.word_score=0"], "'decode.word_score': .*'phoneme' .* only asr$"),
        (
            "speaker",
            ["decode.lm=x"],
            "'decode': task 'speaker' .* only asr, diarization, phoneme and slots$",
        ),
        ("speaker", ["task=asr"], "task=asr: recipe speaker_tiny is of 'speaker'"),
        ("phoneme", ["pronunciations=all"], "'pronunciations' is gone: SUPERB scores the first"),
        ("asr", ["pronunciations=all"], "'pronunciations' is gone"),
        ("asr", ["lr=nan"], r"sweep=\[nan\]: expected different learning rates above 0"),
        ("asr", ["sweep=0.1,inf"], "expected different learning rates above 0"),
        ("asr", ["decode.lm_weight=inf"], "decode.lm_weight=inf: expected a finite number"),
        ("speaker", ["crops=0"], "crops=0: expected 1 or more"),
        ("asr", ["store.precision=fp8"], "store.precision.*expected one of .*int8"),
    ],
)
def test_wrong_names_and_keys_are_refused(
    corpus: Corpus, task: str, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(task, corpus, overrides)


def test_a_key_that_the_mode_does_not_read_is_named(
    corpus: Corpus, caplog: pytest.LogCaptureFixture
) -> None:
    plan("asr", corpus, ["tune.layer=1", "decode.beam=3", "batch=4", "pronunciations=first"])
    assert "asr_tiny: no effect, given mode=frozen and the other keys: " in caplog.text
    assert caplog.text.strip().endswith("keys: tune.layer=1, decode.beam=3")
    plan("asr", corpus, ["sweep=1e-2,1e-3", "lr=1e-3"])
    assert caplog.text.strip().endswith("the other keys: sweep=1e-2,1e-3")


def test_a_bad_lexicon_shows_before_any_work(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("LOW  L OW\nMID\n")
    with pytest.raises(CorpusError, match="words.txt, line 2: 'MID' has no phones"):
        plan("phoneme", corpus, [f"lexicon={tmp_path / 'words.txt'}"])


def test_a_corpus_without_the_field_cannot_serve_the_task(manifest: Path, tmp_path: Path) -> None:
    audio_only = prepare_path("folder", manifest.parent, tmp_path / "audio")
    with pytest.raises(
        CorpusError,
        match="cannot be used for task 'phoneme': it has no phones; this corpus has: audio only$",
    ):
        plan("phoneme", audio_only)


def test_nothing_starts_when_one_name_is_wrong(
    corpus: Corpus, upstreams: dict[str, Spectrum], tmp_path: Path
) -> None:
    with pytest.raises(BenchError):
        evaluate(["good"], [PHONEME, "nonsense"], corpus.root, out=tmp_path / "r", device="cpu")
    assert upstreams["good"].calls == 0
    assert not (tmp_path / "r").exists()


def test_without_room_to_store_one_pass_feeds_all_rates_to_the_same_score(
    corpus: Corpus, upstreams: dict[str, Spectrum], tmp_path: Path
) -> None:
    keys = ["steps=20", "validate_every=10", "store.precision=fp32"]
    (stored,) = evaluate(
        ["good"], [PHONEME], corpus.root, out=tmp_path / "a", device="cpu", overrides=keys
    ).results
    model = upstreams["good"]
    model.calls = 0
    keys.append("store.limit_gb=0")
    (live,) = evaluate(
        ["good"], [PHONEME], corpus.root, out=tmp_path / "b", device="cpu", overrides=keys
    ).results
    assert len(live.sweep) == 2
    # updates, validations and the test, each of one batch, and the norms of 18 utterances, 8 at once
    assert model.calls == 20 + 2 + 1 + 3
    assert (live.metrics, live.sweep) == (stored.metrics, stored.sweep)
    assert live.layer_weights == pytest.approx(stored.layer_weights, abs=1e-5)
    assert live.layer_norms == pytest.approx(stored.layer_norms, rel=1e-6)


@pytest.mark.parametrize("task", [PHONEME, SPEAKER, ASR])
def test_a_record_of_live_features_is_that_of_stored_ones(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    monkeypatch.setattr(costs, "MEASURED", 0)
    fast = Speeds(live=1e-9, write=1.0, read=1.0)
    monkeypatch.setattr(costs, "measure", lambda *_, **__: fast)
    keys = ["steps=8", "validate_every=4"]
    keys += ["crop_seconds=0.5", "crops=3"] if task == SPEAKER else []
    toy = f"random:{DATA / 'toy.yaml'}"
    (live,) = evaluate(
        [toy], [task], corpus.root, out=tmp_path / "a", device="cpu", overrides=keys
    ).results
    assert not list((tmp_path / "a/store").glob("*/*.bin"))
    monkeypatch.undo()
    (stored,) = evaluate(
        [toy], [task], corpus.root, out=tmp_path / "b", device="cpu", overrides=keys
    ).results
    assert len(list((tmp_path / "b/store").glob("*/*.bin"))) == 3
    assert (live.metrics, live.key) == (stored.metrics, stored.key)
    for ours, theirs in zip(live.sweep, stored.sweep, strict=True):
        assert ours == theirs
    assert live.layer_weights == pytest.approx(stored.layer_weights, abs=1e-5)
    assert live.layer_norms == pytest.approx(stored.layer_norms, rel=1e-5)


def test_an_upstream_that_cannot_be_loaded_does_not_stop_the_others(
    corpus: Corpus, tmp_path: Path
) -> None:
    outcome = evaluate(
        ["runs/none", "fbank"],
        [SPEAKER],
        corpus.root,
        out=tmp_path,
        device="cpu",
        overrides=["steps=5"],
    )
    assert [result.upstream["name"] for result in outcome.results] == ["fbank"]
    assert len(outcome.failures) == 1
    assert "runs/none: no such checkpoint" in outcome.failures[0]


def test_the_same_seed_gives_the_same_answers_to_the_letter(
    corpus: Corpus, upstreams: dict[str, Spectrum], tmp_path: Path
) -> None:
    lines = []
    for part in ("one", "two"):
        (result,) = evaluate(
            ["good"], [ASR], corpus.root, out=tmp_path / part, device="cpu"
        ).results
        lines.append(
            results.hypotheses_path(results.record_path(result, tmp_path / part)).read_bytes()
        )
    assert lines[0] == lines[1]


def test_a_dry_run_counts_audio_that_cannot_be_stored_again(
    corpus: Corpus, upstreams: dict[str, Spectrum], tmp_path: Path
) -> None:
    found = estimate(
        ["good"], [PHONEME], corpus.root, out=tmp_path, device="cpu", overrides=["store.limit_gb=0"]
    )
    epochs = 300 * found.rows[0].job.config.batch / corpus.info.splits["train"].utterances
    assert found.passes.bytes == 0
    assert found.passes.hours > epochs * corpus.info.splits["train"].hours
    tuned = estimate(
        ["good"], [PHONEME], corpus.root, out=tmp_path, device="cpu", overrides=["mode=finetune"]
    )
    assert not tuned.rows
    assert "cannot be fine-tuned" in tuned.failures[0]


def test_a_dry_run_says_what_is_missing_and_writes_nothing(
    corpus: Corpus, upstreams: dict[str, Spectrum], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = estimate(
        ["good"], [PHONEME, ASR, SPEAKER], corpus.root, out=tmp_path / "r", device="cpu"
    )
    assert not (tmp_path / "r").exists()
    assert [row.about for row in before.rows] == [
        "to do: 300 updates of 2 heads at once", "to do: 20 updates of 1 heads at once",
        "to do: 60 updates of 2 heads at once",
    ]  # fmt: skip
    hours = sum(split.hours for split in corpus.info.splits.values())
    crops = 18 * 4 * 0.5 / 3600 + sum(corpus.info.splits[name].hours for name in ("valid", "test"))
    assert before.passes.hours == pytest.approx(
        hours + crops, abs=2e-4
    )  # phoneme and asr share one pass
    assert before.passes.seconds > 0
    monkeypatch.setattr(run_folder, "SHARE", 1e9)  # a checkpoint after every update
    sizes: list[int] = []

    def weigh(path: Path) -> None:
        sizes.append((path / "checkpoint.pt").stat().st_size)
        run_folder.discard(path)

    for module in ("fold_heads", "finetune_rates"):
        monkeypatch.setattr(f"mt4ssl_bench.downstream.training.{module}.discard", weigh)
    evaluate(["good"], [PHONEME, ASR, SPEAKER], corpus.root, out=tmp_path / "r", device="cpu")
    assert before.state / 2 == pytest.approx(max(sizes), rel=0.15)  # names and numbers come on top
    models = sum(file.stat().st_size for file in (tmp_path / "r" / "runs").rglob("model.pt"))
    assert before.models == pytest.approx(models, abs=3 * 10_000)
    kept = sum(file.stat().st_size for file in (tmp_path / "r" / "store").rglob("*.bin"))
    assert before.passes.bytes == pytest.approx(kept, rel=0.02)
    after = estimate(
        ["good"], [PHONEME, ASR, SPEAKER], corpus.root, out=tmp_path / "r", device="cpu"
    )
    assert all("has a record" in row.about for row in after.rows)
    assert (after.passes.hours, after.passes.bytes) == (0, 0)
    longer = estimate(
        ["good"], [PHONEME], corpus.root, out=tmp_path / "r", device="cpu", overrides=["steps=301"]
    )
    assert (longer.rows[0].record, longer.passes.hours) == (None, 0), "the features are there"
