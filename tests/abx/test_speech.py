"""Word and speaker ABX of recorded digits: MFCC are better than chance, and far from perfect."""

import csv
from pathlib import Path

import pytest
import soundfile

from mt4ssl_bench.abx.intervals import replicate
from mt4ssl_bench.abx.items import (
    near_lengths,
    read_items,
    single_words,
    speaker_tokens,
    word_tokens,
    write_items,
)
from mt4ssl_bench.abx.plan import AbxConfig
from mt4ssl_bench.abx.score import score_layers
from mt4ssl_bench.abx.spans import find_frames
from mt4ssl_bench.features.mfcc import mfcc

pytestmark = pytest.mark.speech


def test_mfcc_of_digits(speech: Path, tmp_path: Path) -> None:
    folder = speech / "tasks" / "fsdd_queries"
    with (folder / "manifest.tsv").open(encoding="utf-8") as file:
        rows = {row["id"]: row for row in csv.DictReader(file, delimiter="\t")}
    waves = {
        name: soundfile.read(folder / row["path"], dtype="float32")[0] for name, row in rows.items()
    }
    hidden = {name: mfcc(wave)[None] for name, wave in waves.items()}
    words = single_words(
        {name: row["digit"] for name, row in rows.items()},
        {name: len(wave) / 16_000 for name, wave in waves.items()},
    )
    tokens, dropped = word_tokens(words, {name: row["speaker"] for name, row in rows.items()})
    assert len(tokens) + sum(dropped.counts.values()) == 120
    write_items(tmp_path / "digits.item", tokens)
    num_frames = {name: values.shape[1] for name, values in hidden.items()}
    spans = find_frames(read_items(tmp_path / "digits.item"), num_frames)

    tables = score_layers(spans, hidden.__getitem__)
    within, across = (tables[mode].errors()[0] for mode in ("within", "across"))
    assert within < across < 0.3  # speakers differ
    interval = replicate(tables["across"]).interval(0)
    assert (interval.method, interval.speakers) == ("jackknife", 6)
    assert interval.low < across < interval.high < 0.5

    near = AbxConfig(modes=("across",), pairs=near_lengths(tokens, 1.1))
    harder = score_layers(spans, hidden.__getitem__, near)["across"]
    assert harder.counts.pairs < tables["across"].counts.pairs == 90

    speakers = find_frames(speaker_tokens(tokens), num_frames)
    table = score_layers(speakers, hidden.__getitem__, AbxConfig(modes=("within",)))["within"]
    assert table.counts.categories == 6
    assert table.errors()[0] < 0.3
    assert replicate(table, "categories").speakers == 6
