"""ABX scores: the reference case, a brute force in exact fractions, invariances and bad input."""

import csv
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mt4ssl_bench import abx
from mt4ssl_bench.abx import score as score_module
from mt4ssl_bench.abx.items import Token, read_items, speaker_tokens
from mt4ssl_bench.abx.plan import AbxConfig, plan
from mt4ssl_bench.abx.score import cell_errors, score_layers
from mt4ssl_bench.abx.spans import Slice, Spans, find_frames
from mt4ssl_bench.abx.table import spread
from mt4ssl_bench.errors import ConfigError, CorpusError, UpstreamError

CASE = Path(__file__).parent.parent / "fixtures" / "abx_case"
EXPECTED = json.loads((CASE / "expected.json").read_text())
CONTEXTS: dict[str, Literal["same", "any"]] = {"within": "same", "any": "any"}

Hidden = dict[str, Tensor]


def read_case(name: str = "features", rule: Slice = "exact") -> tuple[Spans, Hidden]:
    arrays = np.load(CASE / f"{name}.npz")
    hidden = {key: torch.from_numpy(arrays[key])[None].float() for key in arrays}
    num_frames = {key: values.shape[1] for key, values in hidden.items()}
    return find_frames(read_items(CASE / "case.item"), num_frames, rule=rule), hidden


def errors(spans: Spans, hidden: Hidden, **settings: object) -> dict[str, list[float]]:
    config = AbxConfig(**settings)  # type: ignore[arg-type]
    tables = score_layers(spans, hidden.__getitem__, config)
    return {mode: table.errors().tolist() for mode, table in tables.items()}


@pytest.mark.parametrize(
    ("variant", "features", "settings"),
    [
        ("angular", "features", {}),
        ("angular", "features", {"precision": "float64"}),
        ("angular_librilight_slice", "features", {}),
        ("euclidean", "features", {"distance": "euclidean"}),
        ("angular_mean_pooled", "features", {"pooled": True}),
        ("angular_zero_frames_max", "features_zero", {}),
        ("units_identical_rows_X", "units", {"distance": "identical"}),
    ],
)
def test_the_reference_case(variant: str, features: str, settings: dict[str, object]) -> None:
    spans, hidden = read_case(features, "librilight" if "librilight" in variant else "exact")
    compared = 0
    for name, expected in EXPECTED[variant].items():
        mode, context = (part.split("-")[0] for part in name.split("/"))
        config = AbxConfig(modes=(mode,), context=CONTEXTS[context], **settings)
        table = score_layers(spans, hidden.__getitem__, config)[mode]
        assert table.errors()[0] == pytest.approx(expected["error"], abs=1e-6)
        counts = table.counts.cells, table.counts.triplets, table.counts.pairs
        assert counts == tuple(expected[key] for key in ("cells", "triplets", "ordered_pairs"))
        pairs = {f"{p}-{q}": float(each[0]) for (p, q), each in table.pair_errors().items()}
        assert pairs == pytest.approx(expected["pairs"], abs=1e-6)
        compared += 1
    assert compared == len(EXPECTED[variant])


@pytest.mark.parametrize("context", ["within", "any"])
def test_every_cell_of_the_reference_case(context: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_module, "DISTANCES", 200)  # many chunks
    monkeypatch.setattr(score_module, "TRIPLETS", 100)
    monkeypatch.setattr(score_module, "PAIRS", 50)
    spans, hidden = read_case()
    comparisons = plan(spans.tokens, AbxConfig(context=CONTEXTS[context]))
    found = {}
    for each in cell_errors(comparisons, spans, hidden.__getitem__, [0]):
        cells, sets = comparisons.cells[each.mode], comparisons.sets
        for cell, error in zip(
            range(each.cells.start, each.cells.stop), each.errors[0], strict=True
        ):
            a, b, x = cells.a[cell], cells.b[cell], cells.x[cell]
            one = spans.tokens[comparisons.order[sets.starts[a]]]
            neighbors = (one.previous, one.next) if context == "within" else ("", "")
            key = (
                each.mode,
                comparisons.categories[sets.categories[a]],
                comparisons.categories[sets.categories[b]],
                *neighbors,
                comparisons.groups[sets.groups[a]],
                comparisons.groups[sets.groups[x]],
            )
            found[key] = (
                *(int(sets.sizes[s]) for s in (a, b, x)),
                int(cells.triplets[cell]),
                error,
            )
    with (CASE / "cells.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["context_mode"] == context]
    names = ["speaker_mode", "phone_ax", "phone_b", "prev", "next", "speaker_ab", "speaker_x"]
    expected = {
        tuple(row[name] for name in names): (
            *(int(row[name]) for name in ("n_a", "n_b", "n_x", "triplets")),
            pytest.approx(float(row["error"]), abs=1e-9),
        )
        for row in rows
    }
    assert found == expected


def test_common_mistakes_would_be_noticed() -> None:
    spans, hidden = read_case()
    found = errors(spans, hidden)
    for mode, mistakes in EXPECTED["wrong_on_purpose"].items():
        distinct = [name for name, wrong in mistakes.items() if abs(found[mode][0] - wrong) > 1e-4]
        assert len(distinct) >= len(mistakes) - 1


# --- brute force ---------------------------------------------------------------------------------


def plain_distance(x: list[int], y: list[int]) -> Fraction:
    """Units, 0 or 1: cost over length of the best path from the definition."""
    best: dict[tuple[int, int], tuple[int, int]] = {}
    for i in range(len(x)):
        for j in range(len(y)):
            steps = [best[p] for p in ((i - 1, j - 1), (i, j - 1), (i - 1, j)) if p in best]
            cost, length = min(steps, key=lambda step: step[0], default=(0, 0))
            best[i, j] = cost + (x[i] != y[j]), length + 1
    cost, length = best[len(x) - 1, len(y) - 1]
    return Fraction(cost, length)


def plain_score(
    tokens: list[Token], units: list[list[int]], mode: str, context: str
) -> Fraction | None:
    """The definition, triplet by triplet."""
    cells: dict[tuple[str, ...], list[Fraction]] = defaultdict(list)
    for a, first in enumerate(tokens):
        for b, second in enumerate(tokens):
            for x, third in enumerate(tokens):
                near = {(t.previous, t.next) for t in (first, second, third)}
                if (
                    x == a
                    or first.category != third.category
                    or first.category == second.category
                    or first.group != second.group
                    or (first.group == third.group) != (mode == "within")
                    or (context == "same" and len(near) > 1)
                ):
                    continue
                to_a, to_b = (plain_distance(units[x], units[y]) for y in (a, b))
                key = (first.category, second.category, first.group, third.group)
                if context == "same":
                    key += (first.previous, first.next)
                wrong = Fraction(1) if to_a > to_b else Fraction(int(to_a == to_b), 2)
                cells[key].append(wrong)
    means = {key: sum(each, Fraction(0)) / len(each) for key, each in cells.items()}
    for keep in (3, 2, 0):
        grouped = defaultdict(list)
        for key, value in means.items():
            grouped[key[:keep]].append(value)
        means = {key: sum(each, Fraction(0)) / len(each) for key, each in grouped.items()}
    return means.get(())


TOKENS = st.builds(
    lambda category, group, context, units: (category, group, context, units),
    st.sampled_from("pqr"),
    st.sampled_from("st"),
    st.sampled_from(["-", "x"]),
    st.lists(st.integers(0, 2), min_size=1, max_size=4),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(TOKENS, min_size=3, max_size=14), st.sampled_from(["same", "any"]))
def test_the_score_is_that_of_a_plain_program(
    drawn: list[tuple[str, str, str, list[int]]], context: Literal["same", "any"]
) -> None:
    frame = 20_000
    tokens, units, hidden = [], [], {}
    for number, (category, group, around, frames) in enumerate(drawn):
        name = f"u{number}"
        end = frame * len(frames)
        tokens.append(Token(name, 0, end, category, around, around, group))
        units.append(frames)
        hidden[name] = torch.tensor(frames)[None, :, None].float()
    spans = find_frames(tokens, {name: each.shape[1] for name, each in hidden.items()})
    for mode in ("within", "across"):
        expected = plain_score(tokens, units, mode, context)
        settings = {"modes": (mode,), "context": context, "distance": "identical"}
        if expected is None:
            with pytest.raises(CorpusError, match="no triplet"):
                errors(spans, hidden, **settings)
        else:
            assert errors(spans, hidden, **settings)[mode][0] == pytest.approx(
                float(expected), abs=1e-12
            )


# --- what a score does not depend on -------------------------------------------------------------


def rotated(hidden: Hidden) -> Hidden:
    basis = torch.linalg.qr(
        torch.randn(16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    )[0]
    return {name: values.double() @ basis for name, values in hidden.items()}


def scaled(hidden: Hidden) -> Hidden:
    generator = torch.Generator().manual_seed(0)
    return {
        name: values.double()
        * torch.rand(values.shape[:2], generator=generator, dtype=torch.float64).add(0.1)[..., None]
        for name, values in hidden.items()
    }


@pytest.mark.parametrize("change", [rotated, scaled])
@pytest.mark.parametrize("context", ["same", "any"])
def test_rotation_and_scale_of_frames_do_not_matter(
    change: Callable[[Hidden], Hidden], context: str
) -> None:
    spans, hidden = read_case()
    settings = {"context": context, "precision": "float64"}
    found, before = (errors(spans, each, **settings) for each in (change(hidden), hidden))
    for mode in before:
        assert found[mode] == pytest.approx(before[mode], abs=1e-12)


@pytest.mark.parametrize("limits", [{}, {"context": "any", "max_tokens": 3, "max_groups": 1}])
def test_the_order_of_tokens_and_the_names_of_phones_do_not_matter(
    limits: dict[str, object],
) -> None:
    spans, hidden = read_case()
    order = np.random.default_rng(0).permutation(len(spans.tokens))
    tokens = [spans.tokens[i] for i in order]
    shuffled = replace(
        spans, tokens=tuple(tokens), starts=spans.starts[order], lengths=spans.lengths[order]
    )
    assert errors(shuffled, hidden, **limits) == errors(spans, hidden, **limits)
    names = {"AA": "z", "EH": "y", "IH": "x", "UW": "w"}
    renamed = replace(
        spans, tokens=tuple(replace(t, category=names[t.category]) for t in spans.tokens)
    )
    if not limits:  # a sample depends on names
        for mode, found in errors(renamed, hidden).items():
            assert found == pytest.approx(errors(spans, hidden)[mode], abs=1e-12)


def test_constant_features_score_exactly_one_half() -> None:
    spans, hidden = read_case()
    constant = {name: torch.ones_like(values) for name, values in hidden.items()}
    for found in errors(spans, constant, distance="euclidean").values():
        assert found == [0.5]


def test_random_features_score_about_one_half() -> None:
    spans, hidden = read_case()
    generator = torch.Generator().manual_seed(0)
    random = {
        name: torch.randn(8, values.shape[1], 16, generator=generator)
        for name, values in hidden.items()
    }
    for found in errors(spans, random, context="any").values():
        assert abs(np.mean(found) - 0.5) < 0.03


def test_features_that_are_the_phones_score_zero() -> None:
    spans, _ = read_case()
    phones = sorted({t.category for t in spans.tokens})
    labels = {}
    tokens = []
    for number, token in enumerate(spans.tokens):  # a file each: spans of the case overlap
        name = f"u{number}"
        labels[name] = torch.zeros(1, int(spans.lengths[number]), len(phones))
        labels[name][..., phones.index(token.category)] = 1
        tokens.append(replace(token, utterance=name))
    alone = Spans(tuple(tokens), np.zeros_like(spans.starts), spans.lengths, "exact", spans.dropped)
    for context in ("same", "any"):
        for found in errors(alone, labels, context=context).values():
            assert found == [0.0]


# --- layers, samples, other tokens ---------------------------------------------------------------


def test_layers_are_scored_as_each_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    spans, hidden = read_case()
    generator = torch.Generator().manual_seed(0)
    many = {
        name: values + 2 * torch.randn(5, *values.shape[1:], generator=generator)
        for name, values in hidden.items()
    }
    together = errors(spans, many)
    monkeypatch.setattr(score_module, "FRAME_BYTES", 2 * 4 * 16 * 700)  # two layers at once
    assert errors(spans, many) == {m: pytest.approx(e) for m, e in together.items()}
    for layer in range(5):
        single = {name: values[layer : layer + 1] for name, values in many.items()}
        for mode, found in errors(spans, single).items():
            assert found[0] == pytest.approx(together[mode][layer])
    chosen = score_layers(spans, many.__getitem__, layers=[3, 1])
    for mode, table in chosen.items():
        assert table.errors() == pytest.approx([together[mode][3], together[mode][1]])


def test_a_sample_has_at_most_so_many_tokens_and_speakers_and_depends_on_the_seed() -> None:
    spans, hidden = read_case()
    tables = {}
    for seed in range(6):
        config = AbxConfig(context="any", max_tokens=3, max_groups=1, seed=seed)
        comparisons = plan(spans.tokens, config)
        assert comparisons.sets.sizes.max() == 3
        across = comparisons.cells["across"]
        assert len(across.a) == len(np.unique(np.stack([across.a, across.b]), axis=1).T)
        tables[seed] = score_layers(spans, hidden.__getitem__, config)["across"]
    assert len({table.digest for table in tables.values()}) == 6
    assert 0 < spread(list(tables.values()))[0] < 0.2
    full = score_layers(
        spans, hidden.__getitem__, AbxConfig(context="any", max_tokens=100, max_groups=9)
    )
    assert full["across"].errors()[0] == pytest.approx(
        EXPECTED["angular"]["across-speaker/any-context"]["error"]
    )


def test_only_the_pairs_asked_for_are_compared() -> None:
    spans, hidden = read_case()
    config = AbxConfig(pairs=frozenset({("AA", "IH"), ("ZZ", "AA")}))
    table = score_layers(spans, hidden.__getitem__, config)["within"]
    assert {pair: each[0] for pair, each in table.pair_errors().items()} == {("AA", "IH"): 0.375}


def test_speaker_abx_discriminates_the_speakers_of_a_phone() -> None:
    spans, hidden = read_case()
    spans = replace(spans, tokens=tuple(speaker_tokens(spans.tokens)))
    table = score_layers(spans, hidden.__getitem__, AbxConfig(context="any"))["within"]
    assert table.categories == ("s1", "s2", "s3")
    assert table.groups == ("AA", "EH", "IH", "UW")
    labels = {
        name: torch.eye(3)[int(name[1]) - 1].expand(1, each.shape[1], 3)
        for name, each in hidden.items()
    }
    assert errors(spans, labels, context="any")["within"] == [0.0]


def test_features_of_a_model_in_training_are_scored() -> None:
    spans, hidden = read_case()
    alive = {name: values.clone().requires_grad_() for name, values in hidden.items()}
    assert errors(spans, alive) == errors(spans, hidden)


# --- bad input -----------------------------------------------------------------------------------


def test_features_that_are_not_finite_are_named() -> None:
    spans, hidden = read_case()
    two = {name: values.repeat(2, 1, 1) for name, values in hidden.items()}
    for bad in (torch.nan, torch.inf):
        two["s2-utt0"][1, 3, 2] = bad
        with pytest.raises(
            UpstreamError, match="features of 's2-utt0': NaN or infinity in layer 1"
        ):
            errors(spans, two)


def test_features_of_another_length_or_depth_are_named() -> None:
    spans, hidden = read_case()
    with pytest.raises(UpstreamError, match=r"features of 's3-utt1': shape \(1, 5, 16\); expected"):
        errors(spans, hidden | {"s3-utt1": hidden["s3-utt1"][:, :5]})
    with pytest.raises(UpstreamError, match=r"shape \(2, .*expected \(1, T, 16\)"):
        errors(spans, hidden | {"s3-utt1": hidden["s3-utt1"].repeat(2, 1, 1)})


def test_features_that_do_not_fit_the_distance_are_named() -> None:
    spans, hidden = read_case()
    with pytest.raises(UpstreamError, match="negative values; the distance kl_symmetric"):
        errors(spans, hidden, distance="kl_symmetric")
    with pytest.raises(UpstreamError, match=r"expected \(layers, frames, 1\)"):
        errors(spans, hidden, distance="identical")
    with pytest.raises(UpstreamError, match=r"expected \(layers, frames, dimensions\)"):
        errors(spans, {name: values[0] for name, values in hidden.items()})


def test_zero_frames_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    spans, hidden = read_case("features_zero")
    errors(spans, hidden)
    assert "12 zero frames in layers 0: their angular distance" in caplog.text


def test_a_layer_that_does_not_exist_is_named() -> None:
    spans, hidden = read_case()
    with pytest.raises(ConfigError, match="layer 1: does not exist; expected 0-0"):
        score_layers(spans, hidden.__getitem__, layers=[0, 1])


def test_one_speaker_has_no_score_across() -> None:
    spans, hidden = read_case()
    alone = tuple(replace(t, group="s") for t in spans.tokens)
    spans = replace(spans, tokens=alone)
    with pytest.raises(
        CorpusError, match="ABX across speakers: no triplet in 64 tokens of 4 categ"
    ):
        errors(spans, hidden)
    assert set(errors(spans, hidden, modes=("within",))) == {"within"}


@pytest.mark.parametrize(
    "settings", [{"modes": ()}, {"modes": ("both",)}, {"max_tokens": 1}, {"max_groups": -1}]
)
def test_settings_without_sense_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        AbxConfig(**settings)  # type: ignore[arg-type]


def test_more_distances_than_memory_need_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_module, "MOST", 1000)
    spans, hidden = read_case()
    with pytest.raises(ConfigError, match="distances in one context; .* max_tokens=10"):
        errors(spans, hidden, context="any")


def test_the_room_gives_its_names_when_asked() -> None:
    for name in abx.__all__:
        assert getattr(abx, name).__module__.startswith("mt4ssl_bench.abx.")
    assert set(abx.__all__) <= set(dir(abx))
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = abx.absent
