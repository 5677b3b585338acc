"""A corpus with every kind of defect: each is found and named, in prepare or in check, and none
ends the check.
"""

import gzip
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from mt4ssl_bench.cli import corpora
from mt4ssl_bench.cli.app import app
from mt4ssl_bench.corpora.check import check_corpus
from mt4ssl_bench.corpora.check_report import KINDS, Report
from mt4ssl_bench.corpora.check_rules import Rules, _look_alikes
from mt4ssl_bench.corpora.prepare import prepare
from mt4ssl_bench.corpora.prepare_source import Request, prepare_source
from mt4ssl_bench.corpora.rows import Row, row_of
from mt4ssl_bench.corpora.shard import shard_corpus
from mt4ssl_bench.corpora.source import SOURCES
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cuts import write_cuts
from mt4ssl_bench.errors import CorpusError

RATE = 16_000
COLUMNS = "id\tpath\tspeaker\ttext\tphones\tsplit\tsid_split\tlabel:emotion\tother:clean"
RNG = np.random.default_rng(0)


def noise(seconds: float = 1.0, rate: int = RATE, level: float = 0.1) -> np.ndarray:
    return level * RNG.standard_normal(round(seconds * rate))


def append(wav: Path, more: bytes) -> None:
    """Add bytes behind the chunk of samples, whose size stays as it was."""
    wav.write_bytes(wav.read_bytes() + more)


def never_close(wav: Path) -> None:
    """Set both sizes to 0, as they are while a recorder runs."""
    content = bytearray(wav.read_bytes())
    at = content.find(b"data") + 4
    content[4:8] = content[at : at + 4] = bytes(4)
    wav.write_bytes(content)


class Planted:
    """A table under construction; rows share what they do not say."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows = folder, [COLUMNS]

    def add(
        self, name: str, samples: np.ndarray | None = None, *,
        rate: int = RATE, suffix: str = "flac", kind: str | None = None,
        text: str = "", phones: str = "AA B", speaker: str = "ann", split: str = "train", sid: str = "train",
        emotion: str = "calm", clean: str = "",
    ) -> Path:  # fmt: skip
        path = self.folder / f"{name}.{suffix}"
        soundfile.write(path, noise() if samples is None else samples, rate, subtype=kind)
        text = text or f"WORD {''.join(chr(65 + int(n)) for n in RNG.integers(0, 26, 8))}"
        self.rows.append(
            f"{name}\t{path.name}\t{speaker}\t{text}\t{phones}\t{split}\t{sid}\t{emotion}\t{clean or path.name}"
        )
        return path

    def prepare(self, **options: object) -> Corpus:
        manifest, source = self.folder / "manifest.tsv", SOURCES.get("table")
        manifest.write_text("\n".join(self.rows) + "\n", encoding="utf-8")
        request = Request(roots={"": manifest})
        made = prepare_source(source, source.options(**options), self.folder / "out", request)
        return made.corpus


def edit(corpus: Corpus, split: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a split's cuts behind the corpus's back."""
    file = corpus.root / f"{split}.jsonl.gz"
    cuts = [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
    for cut in cuts:
        change(cut)
    write_cuts(file, cuts)


def named(report: Report) -> dict[str, set[str]]:
    """Return kind -> the first word of each example."""
    found: dict[str, set[str]] = {}
    for finding in report.findings:
        found.setdefault(finding.kind, set()).update(
            example.split(" ")[0].rstrip(":") for example in finding.examples
        )
    return found


@pytest.fixture
def planted(tmp_path: Path) -> Corpus:
    """Every kind of defect but the missing splits, each in an utterance of its kind's name."""
    table = Planted(tmp_path)
    gap = noise()
    gap[2_000:12_000] = 0
    stereo = np.stack([noise(), np.zeros(RATE)], axis=1)
    clipped = np.clip(noise(level=0.8), -1, 1)
    for name in ("missing", "unreadable", "duration", "format", "outside", "changed", "truncated", "no_text",
                 "no_phones", "no_speaker", "duplicate_id", "fine"):  # fmt: skip
        table.add(name, text="SAID TWICE" if name == "fine" else "", speaker="bob")
    table.add("low_rate", noise(rate=8_000), rate=8_000)
    table.add("odd_rate", noise(rate=16_001), rate=16_001)
    append(table.add("longer", suffix="wav"), bytes(range(1, 251)) * 64)
    table.add("unfinished", suffix="wav")
    table.add("channels", np.stack([noise(), noise()], axis=1))
    table.add("short", noise(0.05), phones="B")
    table.add("long", noise(60.5), text="A TEXT OF SOME LENGTH FOR A LONG RECORDING", phones="B")
    broken = noise()
    broken[77] = np.nan
    table.add("not_finite", broken, suffix="wav", kind="FLOAT")
    table.add("silent", np.zeros(RATE))
    table.add("dropout", gap)
    table.add("clipped", clipped)
    table.add("quiet", noise(level=1e-4))
    table.add("offset", noise() + 0.2)
    table.add("dead_channel", stereo)
    twice = noise()
    table.add("first", twice)
    table.add("duplicate", twice)
    table.add("leak", twice, split="test", sid="test")
    table.add("leak_speaker", speaker="bob", split="test", sid="test")
    table.add("unheard_speaker", speaker="zoe", split="test", sid="test")
    table.add("similar_speakers", speaker="Ann")
    table.add("garbled", text="TH\ufffd WORD")
    table.add("mojibake", text="cafÃ© au lait")
    table.add("not_nfc", text=unicodedata.normalize("NFD", "CAFÉ AU LAIT"))
    table.add("look_alikes", text="DON\u2019T \ufb01T")
    table.add("quoted", text='"A WORD"')
    table.add("no_speech", text="<silence>", phones="<silence>")
    table.add("digits", text="ROOM 101")
    table.add("markup", text="<unk> WORD")
    table.add("punctuation", text="YES, NO.")
    table.add("new_characters", text="ÑANDÚ", split="valid", sid="valid")
    table.add("new_phones", phones="ZH AA", split="test", sid="test")
    table.add("too_fast", noise(0.2), text="A GREAT MANY LETTERS IN NO TIME AT ALL")
    table.add("too_slow", noise(21), text="HM")
    table.add("same_text", text="said twice", split="valid", sid="valid")
    table.add("new_label", emotion="joy", split="test", sid="test")
    for name in ("gap", "turn_order", "turn_outside", "slots", "other"):
        table.add(name, emotion="anger", clean="clean.flac" if name == "other" else "")
    soundfile.write(tmp_path / "clean.flac", noise(), RATE)
    for name in ("list", "unknown_id"):
        (tmp_path / f"{name}.tsv").write_text("enrol_id\nfine\n")
    corpus = table.prepare(list=tuple(f"{n}={tmp_path / n}.tsv" for n in ("list", "unknown_id")))
    soundfile.write(tmp_path / "clean.flac", noise(0.9), RATE)
    (tmp_path / "out" / "lists" / "list.tsv").unlink()
    (tmp_path / "out" / "lists" / "unknown_id.tsv").write_text("enrol_id\nnobody\n")
    (tmp_path / "missing.flac").unlink()
    (tmp_path / "unreadable.flac").write_bytes(b"no audio")
    soundfile.write(tmp_path / "duration.flac", noise(0.4), RATE)
    soundfile.write(tmp_path / "format.flac", noise(rate=22_050), 22_050)
    soundfile.write(tmp_path / "changed.flac", noise(), RATE)
    never_close(tmp_path / "unfinished.wav")
    whole = (tmp_path / "truncated.flac").read_bytes()
    (tmp_path / "truncated.flac").write_bytes(whole[: len(whole) // 2])

    def change(cut: dict[str, Any]) -> None:
        said = cut["supervisions"][0]
        if cut["id"] == "outside":
            cut["start"] = 0.5
        if cut["id"] == "duplicate_id":
            cut["id"] = "fine"
        labels = {"gap": {}, "slots": {"emotion": "anger", "slots": "O O artist O O O O"}}
        cut["custom"]["labels"] = labels.get(cut["id"], cut["custom"]["labels"])
        if cut["id"] == "turn_order":
            cut["custom"]["turns"] = {"speakers": [[0.5, 0.2, "ann"]]}
        if cut["id"] == "turn_outside":
            cut["custom"]["turns"] = {"speakers": [[0.5, 1.2, "ann"]]}
        for field, place in (("text", said), ("speaker", said), ("phones", said.get("custom", {}))):
            if cut["id"] == f"no_{field}":
                place.pop(field)

    edit(corpus, "train", change)
    return Corpus.open(corpus.root)


FULL = {
    "truncated",
    "not_finite",
    "silent",
    "dropout",
    "clipped",
    "quiet",
    "offset",
    "dead_channel",
}
ELSEWHERE = {  # where the example's first word is not the kind
    "duplicate_id": "fine", "leak_speaker": "bob", "unheard_speaker": "zoe", "similar_speakers": "'ann'",
    "new_characters": "'Ñ'", "new_phones": "'ZH'", "mixed_rates": "16000", "single_speaker": "zoe",
    "new_label": "emotion=joy", "train_label": "emotion=anger", "list": "list", "unknown_id": "unknown_id,",
}  # fmt: skip


def test_every_planted_defect_is_found_and_named(planted: Corpus) -> None:
    report = check_corpus(planted, full=True)
    found = named(report)
    for kind in KINDS.keys() - {"no_split", "no_sid_split"}:
        assert ELSEWHERE.get(kind, kind) in found.get(kind, ()), kind
    assert "mojibake" in found["garbled"]
    assert report.invalid
    assert len(found) >= 38


def test_headers_alone_show_all_but_what_lies_in_the_samples(planted: Corpus) -> None:
    found = named(check_corpus(planted))
    assert found.keys() == KINDS.keys() - FULL - {"no_split", "no_sid_split"}
    assert found["missing"] == {"missing"}
    assert found["unreadable"] == {"unreadable"}


def test_what_is_sound_is_never_named(planted: Corpus) -> None:
    report = check_corpus(planted, full=True)
    counts = report.counts()
    once = ("missing", "unreadable", "duration", "format", "not_finite", "silent", "clipped",
            "quiet", "offset", "dead_channel", "short", "long", "no_text", "no_phones", "not_nfc", "digits", "markup",
            "punctuation", "too_slow", "low_rate", "duplicate_id")  # fmt: skip
    assert {kind: counts[kind] for kind in once} == dict.fromkeys(once, 1)
    # a defect may bring others: the half FLAC has other bytes, too
    assert "fine" not in {
        example.split(" ")[0]
        for f in report.findings
        if f.kind != "duplicate_id"
        for example in f.examples
    }


def test_preparing_says_the_same_and_corpus_json_counts_it(tmp_path: Path) -> None:
    table = Planted(tmp_path)
    samples = noise()
    table.add("a", samples, text="ROOM 101")
    table.add("b", samples, text="MOON", split="test", sid="test")
    corpus = table.prepare()
    assert corpus.info.notes["check"] == {
        "leak": 2,
        "leak_speaker": 1,
        "digits": 1,
        "new_characters": 1,
        "no_sid_split": 1,
    }


def test_splits_of_identification_that_are_not_all_there_are_an_error(tmp_path: Path) -> None:
    table = Planted(tmp_path)
    for split in ("train", "valid", "test"):
        table.add(split, split=split, sid="test" if split == "test" else "train")
    report = check_corpus(table.prepare())
    assert named(report)["no_sid_split"] == {"sid_valid"}
    assert report.invalid


def parts(folder: Path, *places: tuple[str, float, float | None, str]) -> Corpus:
    """A corpus of parts of one recording of 4 s: (split, start, seconds, speaker)."""
    soundfile.write(folder / "long.flac", noise(4.0), RATE)
    rows = [
        Row(id=f"{split}{number}", path=folder / "long.flac", split=split, sid_split=split,
            start=start, seconds=seconds, speaker=speaker)
        for number, (split, start, seconds, speaker) in enumerate(places)
    ]  # fmt: skip
    return prepare(rows, folder / "out", source=folder, name="parts")


@pytest.mark.parametrize("full", [False, True])
def test_audio_that_is_partly_in_training_leaks(tmp_path: Path, *, full: bool) -> None:
    corpus = parts(
        tmp_path,
        ("train", 1.0, 0.8, "ann"), ("train", 3.2, 0.8, "ann"),  # until 1.8 s, from 3.2 s
        ("valid", 0.4, 0.65, "ann"), ("valid", 1.75, 0.5, "ann"),  # 0.05 s: no more than a rounding
        ("test", 0.5, 1.0, "ann"), ("test", 1.2, 0.3, "ann"), ("test", 2.0, 1.0, "ann"),
        ("test", 3.7, 0.3, "ann"),
    )  # fmt: skip
    found = [f for f in check_corpus(corpus, full=full).findings if f.kind == "leak"]
    assert [(f.split, f.count) for f in found] == [("sid_test", 3), ("test", 3)]
    assert found[1].examples == [
        f"test{n} (a part of it is in train too)" for n in (4, 5, 7)
    ]  # fmt: skip


@pytest.mark.parametrize("full", [False, True])
def test_a_whole_file_in_training_leaks_with_its_parts(tmp_path: Path, *, full: bool) -> None:
    corpus = parts(tmp_path, ("train", 0.0, None, ""), ("test", 1.0, 1.0, ""))
    assert named(check_corpus(corpus, full=full))["leak"] == {"test1"}


@pytest.mark.parametrize(
    ("speakers", "leaks"),
    [
        ({}, 1),  # nobody is named
        ({"other": "ann"}, 0),  # somebody is, in another file: this one is noise, cut anew
        ({"valid": "ann"}, 1),
        ({"train": "ann", "other": "bob"}, 1),
    ],
)
def test_parts_overlap_by_chance_only_in_files_where_nobody_speaks(
    speakers: dict[str, str], leaks: int
) -> None:
    rules = Rules([])
    for name, place in (("train", "a@0+1"), ("valid", "a@0.5+1"), ("other", "b@0+1")):
        row = Row(id=name, path=Path(), content=place, speaker=speakers.get(name, ""), samples=RATE)
        rules.add(name.replace("other", "test"), row)
    rules._overlaps()
    assert rules.found.report({}, "bytes").counts().get("leak", 0) == leaks


@pytest.mark.timeout(60)  # each with each would be 1.2e9 comparisons
def test_many_parts_of_one_file_are_compared_in_one_sweep() -> None:
    rules = Rules([])
    for split, count in (("train", 60_000), ("test", 20_000)):
        for n in range(count):
            place = f"file@{3 * n % 180_000}.000+{2 if split == 'train' else 0.5}"
            rules.add(split, Row(id=f"{split}{n}", path=Path(), content=place, samples=RATE))
    rules._overlaps()
    assert rules.found.report({}, "bytes").counts() == {"leak": 20_000}


def test_a_sound_corpus_gives_nothing_to_say(corpus: Corpus) -> None:
    report = check_corpus(corpus, full=True)
    assert [finding.kind for finding in report.findings if finding.severity != "note"] == [
        "leak_speaker",
        "leak_speaker",
    ]
    assert not report.invalid
    assert report.splits["train"]["utterances"] == 18
    assert report.splits["train"]["sample_rates"] == {"16000": 18}


def test_a_corpus_without_evaluation_splits_is_noted(tmp_path: Path) -> None:
    table = Planted(tmp_path)
    table.add("a")
    report = check_corpus(table.prepare())
    assert named(report)["no_split"] == {"valid", "test"}


def check(corpus: Corpus, *more: str) -> int:
    return int(app(["check", str(corpus.root), *more], standalone_mode=False) or 0)


def test_the_command_prints_counts_first_and_exits_with_1_for_errors(
    planted: Corpus, corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(planted, "--full", "--json", str(tmp_path / "report.json")) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(", decoded")
    assert lines[1].split()[:2] == ["train", "45"]
    first = next(line for line in lines if line.startswith("  found: "))
    assert lines.index(first) < min(n for n, line in enumerate(lines) if line.startswith("  error"))
    assert any(
        "1 audio files that are not there (missing), for example missing (" in line
        for line in lines
    )
    stored = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert list(stored)[:5] == ["corpus", "digest", "full", "invalid", "counts"]
    assert (stored["invalid"], stored["counts"]["missing"], stored["full"]) == (True, 1, True)
    assert check(corpus) == 0


def test_a_damaged_split_and_a_folder_that_is_no_corpus_are_one_line(
    planted: Corpus, tmp_path: Path
) -> None:
    file = planted.root / "test.jsonl.gz"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(CorpusError, match="damaged"):
        check_corpus(planted)
    with pytest.raises(CorpusError, match=r"holds no corpus\.json"):
        check(Corpus(tmp_path, planted.info))


@pytest.mark.parametrize("full", [False, True])
def test_a_shard_cut_short_is_counted_and_the_rest_is_checked(
    corpus: Corpus, tmp_path: Path, *, full: bool
) -> None:
    made = shard_corpus(corpus, tmp_path / "s", size=4)
    for file in ("train/recording.000001.tar", "valid/recording.000000.tar"):
        (made.root / file).write_bytes((made.root / file).read_bytes()[:3000])
    report = check_corpus(made, full=full)
    assert report.counts()["unreadable"] == 4 + 3
    assert {split: facts["utterances"] for split, facts in report.splits.items()} == {
        "train": 14,
        "valid": 0,
        "test": 3,
    }
    found = next(
        finding
        for finding in report.findings
        if finding.kind == "unreadable" and finding.split == "train"
    )
    assert "train/recording.000001.tar: cut short or changed: 3000 bytes, not" in found.examples[0]
    assert "no_split" not in named(report)
    assert check(made) == 1


def test_a_file_that_vanishes_after_preparing_is_named_when_it_is_read(planted: Corpus) -> None:
    cut = next(cut for cut in planted.cuts("train") if cut.id == "missing")
    with pytest.raises(CorpusError, match=r"utterance 'missing': .*missing\.flac: no such file"):
        audio.read(cut)


def test_only_some_examples_are_kept_of_many_defects(tmp_path: Path) -> None:
    table = Planted(tmp_path)
    for n in range(12):
        table.add(f"u{n}", text=f"ROOM {n}")
    report = check_corpus(table.prepare())
    finding = next(finding for finding in report.findings if finding.kind == "digits")
    assert (finding.count, len(finding.examples)) == (12, 5)


def test_the_colours_cover_every_severity() -> None:
    assert corpora.COLOURS.keys() == {severity for severity, _ in KINDS.values()}


def test_pieces_of_one_recording_are_no_copies_of_each_other(corpus: Corpus) -> None:
    cut = next(iter(corpus.cuts("train")))
    whole, piece = row_of(cut), row_of(cut.truncate(offset=0.1, duration=0.25))
    assert piece.content == f"{whole.content}@0.100+0.250"
    assert (piece.duration, len(whole.content)) == (0.25, 32)


@pytest.mark.parametrize(
    ("text", "alike"),
    [
        ("DON\u2019T", ["U+2019"]),
        ("DON\u02bcT", ["U+02BC"]),
        ("\uff21 \ufb01T", ["U+FB01", "U+FF21"]),
        ("DON'T CAFÉ ÑANDÚ", []),
        (unicodedata.normalize("NFD", "CAFÉ"), []),  # not_nfc, and nothing else
        ("中文 العربية", []),
    ],
)
def test_characters_that_look_like_others_are_named(text: str, alike: list[str]) -> None:
    assert _look_alikes(text) == alike
