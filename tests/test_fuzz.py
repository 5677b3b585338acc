"""Generated input: no traceback reaches a user, and nothing is read as something else.

Each property runs on a few examples in the fast set, the same at every run, and under the marker
`long` on many, other ones at every run; a failure prints the example and how to repeat it.
"""

import io
import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mt4ssl_bench import config
from mt4ssl_bench.cli.app import app
from mt4ssl_bench.corpora.sources import fairseq, kaldi
from mt4ssl_bench.corpora.sources.table import read_table
from mt4ssl_bench.data import audio, audio_headers, containers
from mt4ssl_bench.data.alignment import parse_textgrid, read_alignment
from mt4ssl_bench.data.label_store import LabelStore, write_labels
from mt4ssl_bench.data.labels import LabelInfo
from mt4ssl_bench.data.lexicon import lookup_form
from mt4ssl_bench.data.lexicon_files import open_lexicon
from mt4ssl_bench.downstream.plan import load_config
from mt4ssl_bench.errors import BenchError
from mt4ssl_bench.results import find, load, load_hypotheses
from mt4ssl_bench.results.leaderboard import Leaderboard
from mt4ssl_bench.upstream.config import PretrainConfig

RECORDS = Path(__file__).parent / "fixtures" / "revision_16264c9"
budget = pytest.mark.parametrize("examples", [40, pytest.param(2000, marks=pytest.mark.long)])
# what a table's cell may hold: no tab, no end of line; U+2028 and a lone quote are welcome
cells = st.text(
    st.characters(exclude_characters="\t\n\r\0", exclude_categories=["Cs"]), min_size=1, max_size=12
).filter(lambda cell: cell.strip() == cell and not cell.startswith("\ufeff"))
words = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=8)
numbers = st.floats(min_value=0, max_value=1e4, allow_nan=False)
odd = st.sampled_from(
    ["", " ", "\t", "\n", "\r\n", "\ufeff", "nan", "-1", "1e999", "1_0", '"', "\0", "é"]
)


def check(examples: int, holds: Callable[..., None], **strategies: st.SearchStrategy[Any]) -> None:
    """Run a property on so many examples."""
    settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=examples < 100,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )(given(**strategies)(holds))()


def attempt(read: Callable[[], Any]) -> Any:
    """What `read` returns, or None where it refuses the input in the way that users see."""
    try:
        return read()
    except (BenchError, OSError) as refusal:
        message = str(refusal)
    assert message.strip(), "an error without a message"
    return None


def torn(text: str) -> st.SearchStrategy[str]:
    """A text with pieces cut out and odd ones put in."""
    places = st.integers(0, len(text))
    edits = st.lists(st.tuples(places, st.integers(0, 8), odd), min_size=1, max_size=4)

    def edit(changes: list[tuple[int, int, str]]) -> str:
        torn_text = text
        for place, length, piece in changes:
            torn_text = torn_text[:place] + piece + torn_text[place + length :]
        return torn_text

    return edits.map(edit)


@budget
def test_a_table_says_what_was_written(examples: int, tmp_path: Path) -> None:
    file = tmp_path / "manifest.tsv"

    def holds(rows: list[tuple[str, str, str]]) -> None:
        lines = ["id\tpath\ttext\tspeaker", *(f"{n}\ta.wav\t{t}\t{s}" for n, t, s in rows)]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
        read = attempt(lambda: read_table(file))
        assume(read is not None)
        for row, (name, text, speaker) in zip(read, rows, strict=True):
            silent = text == "<silence>"
            assert (row.id, row.speaker, row.silent) == (name, speaker, silent)
            assert row.text == ("" if silent else " ".join(text.split()))

    names = st.lists(
        st.tuples(cells, cells, cells), min_size=1, max_size=4, unique_by=lambda r: r[0]
    )
    check(examples, holds, rows=names)


def number(cell: str) -> float | None:
    """The number that a cell holds, or None."""
    with suppress(ValueError):
        return float(cell)
    return None


@budget
def test_a_torn_table_is_read_or_refused(examples: int, tmp_path: Path) -> None:
    file = tmp_path / "manifest.tsv"
    whole = (
        "id\tpath\tduration_s\ttext\tsplit\na\ta.wav\t1.5\tONE TWO\ttrain\nb\tb.wav\t2\tSIX\ttest\n"
    )

    def holds(text: str) -> None:
        file.write_bytes(text.encode())
        for row in attempt(lambda: read_table(file)) or []:
            cells = re.split("[\t\n]", text)
            assert row.stated is None or math.isfinite(row.stated)
            assert row.stated is None or any(number(cell) == row.stated for cell in cells)

    check(examples, holds, text=torn(whole))


@budget
def test_a_ctm_gives_its_segments_and_counts_the_rest(examples: int, tmp_path: Path) -> None:
    file = tmp_path / "a.ctm"

    def holds(rows: list[tuple[str, float, float, str]]) -> None:
        lines = [f"{n} 1 {start!r} {length!r} {label}" for n, start, length, label in rows]
        file.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
        usable = [r for r in rows if r[1] + r[2] > r[1] and not r[0].startswith(";;")]
        read = attempt(lambda: read_alignment(file))
        segments = [s for found in read.segments.values() for s in found] if read else []
        assert sorted(segments) == sorted((s, s + length, label) for _, s, length, label in usable)

    rows = st.lists(st.tuples(words, numbers, numbers, words), min_size=1, max_size=5)
    check(examples, holds, rows=rows)
    whole = "a 1 0.5 0.25 AH\nb 1 0 1.5 sil\n"

    def survives(text: str) -> None:
        file.write_bytes(text.encode())
        attempt(lambda: read_alignment(file))

    check(examples, survives, text=torn(whole))


@budget
def test_a_textgrid_says_what_was_written(examples: int, tmp_path: Path) -> None:
    def holds(labels: list[str]) -> None:
        quoted = ['"' + label.replace('"', '""') + '"' for label in labels]
        lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "0", str(len(labels))]
        lines += ["<exists>", "1", '"IntervalTier"', '"phones"', "0", str(len(labels))]
        lines.append(str(len(labels)))
        for place, label in enumerate(quoted):
            lines += [str(place), str(place + 1), label]
        ((name, segments),) = parse_textgrid("\n".join(lines))
        assert name == "phones"
        assert segments == [(n, n + 1, " ".join(label.split())) for n, label in enumerate(labels)]

    check(examples, holds, labels=st.lists(cells, min_size=1, max_size=4))
    short = 'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n2\n<exists>\n1\n'
    short += '"IntervalTier"\n"phones"\n0\n2\n2\n0\n1\n"AH"\n1\n2\n"B"\n'

    file = tmp_path / "a.TextGrid"

    def survives(text: str) -> None:
        file.write_bytes(text.encode())
        attempt(lambda: read_alignment(file))

    check(examples, survives, text=torn(short))


@budget
def test_a_lexicon_gives_its_pronunciations(examples: int, tmp_path: Path) -> None:
    file = tmp_path / "words.txt"

    def holds(entries: list[tuple[str, list[str]]]) -> None:
        lines = [f"{word}\t{' '.join(phones)}" for word, phones in entries]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        assume(all(lookup_form(word).split() == [lookup_form(word)] for word, _ in entries))
        assume(not any(word.startswith(";;;") or word[-1:] == ")" for word, _ in entries))
        lexicon = open_lexicon([file])
        for word, phones in entries:
            assert " ".join(phones) in lexicon.words[lookup_form(word)]

    phones = st.lists(st.sampled_from(["AH", "B", "T"]), min_size=1, max_size=3)
    check(examples, holds, entries=st.lists(st.tuples(words, phones), min_size=1, max_size=4))

    def survives(text: str) -> None:
        file.write_bytes(text.encode())
        attempt(lambda: open_lexicon([file]))

    check(examples, survives, text=torn("ONE W AH N\nTWO\tT UW\n;;; comment\nTWO(2) T AH\n"))


@budget
def test_lists_of_other_toolkits_are_read_or_refused(examples: int, tmp_path: Path) -> None:
    fair, data = tmp_path / "train.tsv", tmp_path / "train"
    data.mkdir()

    def fairseq_holds(listing: str, labels: str) -> None:
        fair.write_bytes(listing.encode())
        fair.with_suffix(".km").write_bytes(labels.encode())
        attempt(lambda: list(fairseq.read(fair, fairseq.Fairseq())))
        attempt(lambda: fairseq.read_km([fair], fairseq.Fairseq()))

    check(
        examples,
        fairseq_holds,
        listing=torn("/audio\na.wav\t16000\nb.wav\t32000\n"),
        labels=torn(" ".join(["7"] * 49) + "\n" + " ".join(["3"] * 99) + "\n"),
    )

    def numbers(text: str) -> set[float]:
        found = set()
        for word in text.split():
            with suppress(ValueError):
                found.add(float(word))
        return found

    def kaldi_holds(scp: str, segments: str, text: str) -> None:
        for name, content in (("wav.scp", scp), ("segments", segments), ("text", text)):
            (data / name).write_bytes(content.encode())
        for row in attempt(lambda: list(kaldi.read(data, kaldi.Kaldi()))) or []:
            assert not math.isfinite(row.start) or row.start in numbers(f"{segments} 0")

    check(
        examples,
        kaldi_holds,
        scp=torn("r1 /audio/a.wav\nr2 b.flac\n"),
        segments=torn("u1 r1 0.0 1.5\nu2 r2 1 2\n"),
        text=torn("u1 ONE TWO\nu2\n"),
    )


@budget
def test_labels_come_back_as_they_were(examples: int, tmp_path: Path) -> None:
    places: Iterator[int] = iter(range(10**9))

    def holds(labels: dict[str, list[int]]) -> None:
        folder = tmp_path / str(next(places))
        info = LabelInfo(digest="d", clusters=500, features="mfcc", normalize="none", made_by="")
        arrays = {name: np.array(values, np.uint16) for name, values in labels.items()}
        write_labels(folder, info, iter(arrays.items()), None)
        store = LabelStore(folder)
        for name, values in arrays.items():
            assert np.array_equal(store.all_of(name), values)

    values = st.lists(st.integers(0, 499), min_size=1, max_size=9)
    check(min(examples, 300), holds, labels=st.dictionaries(cells, values, min_size=1, max_size=4))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@budget
def test_a_record_with_a_wrong_value_is_refused_or_shown(examples: int, tmp_path: Path) -> None:
    source = sorted(RECORDS.glob("phoneme-*.json"))[0]
    whole = json.loads(source.read_text(encoding="utf-8"))
    file = tmp_path / source.name
    answers = source.with_suffix(".hyp.jsonl").read_text(encoding="utf-8")
    places = st.sampled_from(sorted(whole))

    def holds(place: str, value: Any, inner: str, drop: bool) -> None:  # noqa: FBT001
        record = json.loads(json.dumps(whole))
        if inner and isinstance(record[place], dict) and record[place]:
            record[place][sorted(record[place])[len(inner) % len(record[place])]] = value
        elif drop:
            del record[place]
        else:
            record[place] = value
        file.write_text(json.dumps(record), encoding="utf-8")
        if attempt(lambda: load(file)) is not None:
            attempt(lambda: Leaderboard.from_folder(tmp_path).to_markdown())
            attempt(lambda: find(tmp_path, file.stem.rsplit("-", 1)[1]))

    check(
        examples,
        holds,
        place=places,
        value=json_values,
        inner=st.text(max_size=9),
        drop=st.booleans(),
    )

    def survives(text: str) -> None:
        file.with_suffix(".hyp.jsonl").write_bytes(text.encode())
        attempt(lambda: load_hypotheses(file))

    check(examples, survives, text=torn(answers[:600]))


@budget
def test_recipes_and_keys_are_read_or_refused(examples: int, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"

    def holds(text: str, key: str, value: str) -> None:
        recipe.write_bytes(text.encode())
        attempt(lambda: load_config(str(recipe), [f"{key}={value}"]))
        attempt(lambda: config.load(PretrainConfig, "mt4ssl_tiny", [f"{key}={value}"]))

    keys = [
        "steps",
        "sweep",
        "head.dropout",
        "decode.lm",
        "seeds",
        "lr",
        "fit.steps",
        "optim.phases",
    ]
    check(
        examples,
        holds,
        text=torn("about: mine\ntask: asr\nsteps: 10\nsweep: [1.0e-2, 1e-3]\nhead: {hidden: 32}\n"),
        key=st.sampled_from(keys) | st.text(max_size=6),
        value=st.text(max_size=8) | numbers.map(str) | odd,
    )


FORMATS = [
    ("WAV", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("AU", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"),
]


@budget
@pytest.mark.parametrize("form", FORMATS, ids=[name for name, _ in FORMATS])
def test_a_damaged_header_is_named_or_its_samples_are_libsndfiles(
    examples: int, form: tuple[str, str], tmp_path: Path
) -> None:
    file = tmp_path / f"a.{form[0].lower()}"
    noise = (0.1 * np.random.default_rng(0).standard_normal(4000)).astype(np.float32)
    soundfile.write(file, noise, 16_000, format=form[0], subtype=form[1])
    whole = file.read_bytes()

    def holds(place: int, byte: int, cut: int) -> None:
        damaged = bytearray(whole)
        damaged[place] = byte
        file.write_bytes(bytes(damaged[: len(damaged) - cut]))
        seen = attempt(lambda: audio_headers.probe(file))
        if seen is None:
            return
        frames, rate, _ = seen
        attempt(lambda: containers.defect_of(file, frames=frames, rate=rate, search=True))
        samples = attempt(lambda: audio.read_file(file))
        if samples is not None and rate == audio.RATE:
            direct, _ = soundfile.read(
                io.BytesIO(file.read_bytes()), dtype="float32", always_2d=True
            )
            assert np.allclose(samples, direct.mean(1), atol=1e-6, equal_nan=True)

    check(
        min(examples, 500),
        holds,
        place=st.integers(0, 60),
        byte=st.integers(0, 255),
        cut=st.sampled_from([0, 0, 1, 100, 3000]),
    )


@budget
def test_no_traceback_comes_out_of_the_command(
    examples: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "manifest.tsv"
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000, np.float32) + 0.1, 16_000)
    places: Iterator[int] = iter(range(10**9))

    def holds(text: str) -> None:
        manifest.write_bytes(text.encode())
        out = str(tmp_path / str(next(places)))
        attempt(
            lambda: app(["prepare", "table", str(manifest), "--out", out], standalone_mode=False)
        )
        assert "Traceback" not in capsys.readouterr().err

    whole = "id\tpath\tspeaker\ttext\tsplit\na\ta.wav\ts\tONE\ttrain\nb\ta.wav\tt\tTWO\ttest\n"
    check(min(examples, 200), holds, text=torn(whole))


# what the properties above have found, as plain examples


@pytest.mark.parametrize("stated", ["1_0", "1e999", "nan", "\u0661"])
def test_a_duration_is_a_finite_number_in_ascii(stated: str, tmp_path: Path) -> None:
    file = tmp_path / "manifest.tsv"
    file.write_text(f"id\tpath\tduration_s\na\ta.wav\t{stated}\n", encoding="utf-8")
    with pytest.raises(BenchError, match=f"duration_s '{stated}', not a number"):
        read_table(file)


def test_a_count_of_samples_is_in_ascii_digits(tmp_path: Path) -> None:
    file = tmp_path / "train.tsv"
    file.write_text("/audio\na.wav\t16²\n", encoding="utf-8")
    with pytest.raises(BenchError, match="expected path<tab>samples"):
        list(fairseq.read(file, fairseq.Fairseq()))


def test_a_textgrid_with_infinitely_many_tiers_is_none() -> None:
    text = 'File type = "ooTextFile"\nObject class = "TextGrid"\n0\n2\n<exists>\n1e999\n'
    with pytest.raises(ValueError, match="expected a number"):
        list(parse_textgrid(text))


def test_an_unknown_key_inside_an_unknown_key_is_named(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("task: asr\nswep: {hidden: {x: 1}}\nhed.x: 1\n", encoding="utf-8")
    with pytest.raises(BenchError, match="unknown key 'swep'; did you mean sweep"):
        load_config(str(recipe))


@pytest.mark.parametrize("place", ["sweep", "layer_weights", "counts", "wall_seconds"])
def test_a_field_of_a_record_that_is_null_is_named(place: str, tmp_path: Path) -> None:
    source = sorted(RECORDS.glob("phoneme-*.json"))[0]
    values = json.loads(source.read_text(encoding="utf-8"))
    (tmp_path / source.name).write_text(json.dumps(values | {place: None}), encoding="utf-8")
    with pytest.raises(BenchError, match=rf"{place}|NoneType"):
        load(tmp_path / source.name)
