"""Several seeds: every one is scored on test; record and tables give mean, spread and each value."""

import json
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pytest

from builders import identical, invoke, recipe, rendered, write_run
from fakes import Mirrored, Spectrum
from mt4ssl_bench import results
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.downstream.evaluate import evaluate
from mt4ssl_bench.downstream.training.choose_rate import choose
from mt4ssl_bench.downstream.training.saved_model import chosen_head, read_model
from mt4ssl_bench.encoders import load
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import BenchError, TrainingError
from mt4ssl_bench.results.answers import Answer, by_seed
from mt4ssl_bench.results.compare import compare
from mt4ssl_bench.results.intervals import DEFAULT
from mt4ssl_bench.results.leaderboard import Leaderboard
from mt4ssl_bench.results.metrics import METRICS
from mt4ssl_bench.results.record import Result
from mt4ssl_bench.results.show import report

SHORT = ["steps=20", "validate_every=10", "sweep=[1e-1,1e-2]"]


def upstream(name: str, **_: str) -> Upstream:
    return Mirrored(name) if name == "mirrored" else Spectrum(name)


def evaluated(corpus: Corpus, out: Path, task: str, *keys: str, name: str = "good") -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "load_upstream", upstream)
        outcome = evaluate(
            [name], [recipe(task)], corpus.root, out=out, device="cpu", overrides=[*SHORT, *keys]
        )
    assert not outcome.failures
    return outcome.results[0]


def answers_of(result: Result, out: Path) -> dict[str, list[Answer]]:
    return by_seed(results.load_hypotheses(results.record_path(result, out)))


@pytest.fixture(scope="module")
def made(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    out = tmp_path_factory.mktemp("results")
    return evaluated(corpus, out, "phoneme", "seeds=[1,2,3]"), out


def test_each_seed_is_scored_on_test_at_the_rate_that_is_best_by_their_mean_on_valid(
    made: tuple[Result, Path],
) -> None:
    result, out = made
    valid = {
        lr: fmean(t["valid"] for t in result.sweep if t["lr"] == lr and t["valid"] is not None)
        for lr in (1e-1, 1e-2)
    }
    best = min(valid, key=valid.__getitem__)
    assert [(t["lr"], t["seed"]) for t in result.sweep if t["chosen"]] == [
        (best, 1), (best, 2), (best, 3),
    ]  # fmt: skip
    parts = answers_of(result, out)
    assert list(parts) == ["1", "2", "3"]
    ids = [[answer["id"] for answer in part] for part in parts.values()]
    assert ids[0] == ids[1] == ids[2]
    per = METRICS.get("per")
    values = {seed: per.value(part) for seed, part in parts.items()}
    assert result.main.by_seed == pytest.approx(values)
    assert result.main.value == pytest.approx(fmean(values.values()))
    assert result.main.sd == pytest.approx(stdev(values.values()))
    assert len(set(values.values())) > 1, "the seeds differ, or this test shows nothing"


def test_the_interval_is_that_of_the_mean_over_utterances(made: tuple[Result, Path]) -> None:
    result, out = made
    parts, per = answers_of(result, out), METRICS.get("per")
    number, draws = len(parts["1"]), np.random.default_rng(DEFAULT.seed)
    means = []
    for _ in range(DEFAULT.samples):
        picked = draws.integers(number, size=number)
        means.append(fmean(per.value([part[i] for i in picked]) for part in parts.values()))
    low, high = np.percentile(means, [2.5, 97.5])
    assert (result.main.low, result.main.high) == pytest.approx((low, high))
    assert result.main.total == sum(answer["tokens"] for part in parts.values() for answer in part)


def test_the_first_seed_scores_as_it_does_on_its_own(
    made: tuple[Result, Path], corpus: Corpus, tmp_path: Path
) -> None:
    result, _ = made
    rate = next(trial["lr"] for trial in result.sweep if trial["chosen"])
    single = evaluated(corpus, tmp_path, "phoneme", "seeds=1", f"sweep={rate}")
    assert single.main.value == result.main.by_seed["1"]
    assert (single.main.by_seed, single.main.sd) == ({}, None)
    assert all("seed" not in row for part in answers_of(single, tmp_path).values() for row in part)


def test_a_row_killed_before_its_record_takes_the_heads_of_all_seeds_from_disk(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluated(corpus, tmp_path, "asr", "seeds=[1,2]")
    path = results.record_path(first, tmp_path)
    answers = results.hypotheses_path(path).read_bytes()
    path.unlink()
    monkeypatch.setattr("mt4ssl_bench.training.fit.Fit._update", None)
    again = evaluated(corpus, tmp_path, "asr", "seeds=[1,2]")
    assert (again.metrics, again.sweep) == (first.metrics, first.sweep)
    assert results.hypotheses_path(path).read_bytes() == answers
    (folder,) = (tmp_path / "runs").iterdir()
    stored = read_model(folder)
    chosen = next(n for n, trial in enumerate(first.sweep) if trial["chosen"])
    head = chosen_head(stored)
    assert head["output.weight"].equal(stored["head"][f"{chosen}.output.weight"])
    assert len(stored["head"]) == 2 * len(head)


def test_seeds_of_fine_tuning_score_as_each_does_on_its_own(corpus: Corpus, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")

    def value(seeds: str) -> Result:
        (result,) = evaluate(
            [str(run)],
            [recipe("asr_finetune")],
            corpus.root,
            out=tmp_path / "results",
            device="cpu",
            overrides=["steps=6", "validate_every=3", "sweep=[1e-2]", f"seeds={seeds}", *order],
        ).results
        return result

    order = ["tune.batch_seconds=2"]  # several batches, so that their order counts

    both = value("[1,2]")
    assert both.main.by_seed == {seed: value(seed).main.value for seed in ("1", "2")}
    (folder,) = {p.parent for p in (tmp_path / "results" / "runs").glob("*/lr-0.01-seed-2")}
    assert (folder / "model.pt").is_file()
    assert (folder / "lr-0.01-seed-2" / "model.pt").is_file()
    assert not (folder / "lr-0.01-seed-1" / "model.pt").exists(), "it is folder's own"
    alone = folder.with_name(results.record_path(value("2"), tmp_path / "results").stem)
    weights, own = (read_model(place)["head"] for place in (folder / "lr-0.01-seed-2", alone))
    assert identical(weights, own), "its batches have its own order"
    results.record_path(both, tmp_path / "results").unlink()
    (folder / "lr-0.01-seed-2" / "model.pt").unlink()
    assert value("[1,2]").metrics == both.metrics, "the model that was lost is trained again"


def test_the_seed_that_diverges_excludes_its_rate() -> None:
    def trial(lr: float, seed: int, valid: float | None) -> results.Trial:
        return {"lr": lr, "seed": seed, "valid": valid, "steps": 1, "chosen": False}

    per = METRICS.get("per")
    trials = [trial(0.1, 1, 5.0), trial(0.01, 1, 9.0), trial(0.1, 2, None), trial(0.01, 2, 8.0)]
    assert [each["chosen"] for each in choose([trials], per, "row")] == [False, True, False, True]
    with pytest.raises(TrainingError, match=r"failed at every learning rate of \[0.1\]"):
        choose([[trial(0.1, 1, 5.0), trial(0.1, 2, None)]], per, "row")


def test_leaderboard_and_show_give_mean_spread_and_each_seed(made: tuple[Result, Path]) -> None:
    result, out = made
    main = result.main
    text = Leaderboard.from_folder(out).to_markdown()
    cell = f"**{main.value:.1f} ±{main.sd:.1f}** [{main.low:.1f}, {main.high:.1f}]"
    assert cell in text
    assert "±: standard deviation over 3 seeds; the value is their mean" in text
    shown = rendered(report(results.record_path(result, out)))
    assert "seed 1" in shown
    assert all(f"{value:.2f}" in shown for value in main.by_seed.values())
    assert f"{main.value:.2f} ±{main.sd:.2f}" in shown
    lines = Leaderboard.from_folder(out).to_csv().splitlines()
    assert "by_seed,sd" in lines[0]
    (table,) = json.loads(Leaderboard.from_folder(out).to_json())["tables"]
    assert table["rows"][0]["cells"][0]["score"]["by_seed"] == main.by_seed


def test_compare_pairs_utterances_of_the_seeds_means_and_says_so(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = evaluated(corpus, tmp_path, "phoneme", "seeds=[1,2]")
    b = evaluated(corpus, tmp_path, "phoneme", "seeds=[1,2]", name="mirrored")
    (each,) = compare("good", "mirrored", task="phoneme", folder=tmp_path)
    assert each.value == pytest.approx(a.main.value - b.main.value)
    assert each.units == 3
    assert each.seeds == "each is the mean of seeds 1, 2; the interval holds these seeds fixed"
    invoke("compare", "good", "mirrored", "--task", "phoneme", "--results", tmp_path)
    assert each.seeds in " ".join(capsys.readouterr().out.split())

    other = tmp_path / "other"
    evaluated(corpus, other, "phoneme", "seeds=[1,2]")
    single = evaluated(corpus, other, "phoneme", name="mirrored")
    (each,) = compare("good", "mirrored", task="phoneme", folder=other)
    assert each.value == pytest.approx(a.main.value - single.main.value)
    assert each.seeds == ("utterances are paired, seeds are not: mean of seeds 1, 2 against seed 0")
    places = Leaderboard.from_folder(other).tables[0]
    assert [column.first for column in places.columns] == [True, False], "two columns: other seeds"
    evaluated(corpus, other, "phoneme", "clip_norm=0.5", name="third")
    with pytest.raises(BenchError, match="differ in clip_norm"):
        compare("mirrored", "third", task="phoneme", folder=other)


def test_answers_that_lack_a_seed_of_an_utterance_are_not_compared(
    corpus: Corpus, tmp_path: Path
) -> None:
    for name in ("good", "mirrored"):
        result = evaluated(corpus, tmp_path, "phoneme", "seeds=[1,2]", name=name)
    file = results.hypotheses_path(results.record_path(result, tmp_path))
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(BenchError, match="do not hold the same utterances"):
        compare("good", "mirrored", task="phoneme", folder=tmp_path)
    assert Leaderboard.from_folder(tmp_path).tables[0].rows, "placed by value"
