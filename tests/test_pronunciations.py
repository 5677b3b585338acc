"""Words with several pronunciations: the one nearest to what was said counts."""

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from mt4ssl_bench import results
from mt4ssl_bench.compare import compare
from mt4ssl_bench.corpus import Corpus
from mt4ssl_bench.downstream.evaluate import evaluate
from mt4ssl_bench.downstream.nearest import nearest
from mt4ssl_bench.metrics import error_counts

TOY = str(Path(__file__).parent / "data" / "toy_phoneme.yaml")


def test_the_nearest_of_all_combinations_is_found() -> None:
    draw = random.Random(0)  # noqa: S311 - not cryptographic

    def some(least: int, most: int) -> str:
        return " ".join(draw.choices(["K", "AE", "T"], k=draw.randint(least, most)))

    for _ in range(300):
        words = [[some(1, 3) for _ in range(draw.randint(1, 3))] for _ in range(draw.randint(1, 4))]
        said = some(0, 9)
        every = [" ".join(choice) for choice in itertools.product(*words)]
        edits = error_counts(every, [said] * len(every), by="words")[:, :3].sum(1)
        found = nearest(words, said)
        assert edits[every.index(found)] == edits.min()


@pytest.mark.parametrize(
    ("said", "reference"),
    [
        ("AY R IY D IH T", "AY R IY D IH T"),
        ("AY R EH D IH T", "AY R EH D IH T"),
        ("AY R AA D IH T", "AY R EH D IH T"),  # neither: the first
        ("", "AY R EH D IH T"),
        ("AY R IY D AH T AH", "AY R IY D AH T"),
    ],
)
def test_each_word_is_taken_as_it_was_said(said: str, reference: str) -> None:
    assert nearest([["AY"], ["R EH D", "R IY D"], ["IH T", "AH T"]], said) == reference


def test_a_recipe_says_whether_the_first_or_all_count(
    corpus: Corpus, write_arpa: Callable[[Path, list[str]], str], tmp_path: Path
) -> None:
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("LOW  L OW\nLOW(2)  L\nMID M IH D\nMID  HH M IH D L\nHIGH  HH AY\n")
    arpa = write_arpa(tmp_path / "phones.arpa", ["L OW M IH D", "HH AY HH AY"])
    keys = [
        f"lexicon={lexicon}",
        f"decode.lm={arpa}",
        "steps=5",
        "validate_every=5",
        "sweep=[1e-2]",
    ]
    for choice in ("first", "all"):
        outcome = evaluate(
            ["fbank", "mel"], [TOY], corpus.root, out=tmp_path / choice, device="cpu",
            overrides=[*keys, f"pronunciations={choice}"],
        )  # fmt: skip
        assert not outcome.failures
    first, every = (results.load_all(tmp_path / choice) for choice in ("first", "all"))
    assert sum(r.metrics["per"].errors for r in every) < sum(r.metrics["per"].errors for r in first)
    for one, other in zip(first, every, strict=True):
        assert "pronunciations" not in one.recipe, (
            "records of before there was a choice are still found"
        )
        assert other.recipe["pronunciations"] == "all"
        assert other.metrics["per"].errors <= one.metrics["per"].errors
        rows, more = (
            {
                row["id"]: row
                for row in results.load_hypotheses(results.record_path(r, tmp_path / choice))
            }
            for r, choice in ((one, "first"), (other, "all"))
        )
        assert {name: row["hypothesis"] for name, row in rows.items()} == {
            name: row["hypothesis"] for name, row in more.items()
        }, "training sees the first alone"
        assert sum(row["tokens"] for row in more.values()) == other.metrics["per"].total
        assert any(row["reference"] != rows[name]["reference"] for name, row in more.items())
    for found in compare("fbank", "mel", task="phoneme", folder=tmp_path / "all"):
        assert found.value == pytest.approx(found.a - found.b)
