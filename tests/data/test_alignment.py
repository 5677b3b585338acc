"""Alignments as several programs write them: all are equal, and what cannot be used is counted."""

import codecs
from pathlib import Path

import pytest

from mt4ssl_bench.data.alignment import parse_textgrid, read_alignment
from mt4ssl_bench.data.cut import Turn
from mt4ssl_bench.errors import CorpusError

Tiers = dict[str, list[Turn]]
TIERS: Tiers = {
    "words": [(0.0, 1.5, 'SAY "A"! xmin = 1 "intervals [1]:" 7 <exists>')],
    "phones": [(0.0, 0.25, ""), (0.25, 1.0, "ɛ"), (1.0, 1.25, '"AH0"'), (1.25, 1.5, " ")],
    "silences": [(0.0, 0.25, "silent"), (0.25, 1.5, "sounding")],
}
PHONES = [(0.25, 1.0, "ɛ"), (1.0, 1.25, '"AH0"')]


def quoted(label: str) -> str:
    return '"' + label.replace('"', '""') + '"'


def long_form(tiers: Tiers) -> str:
    """Return a TextGrid as Praat's 'Save as text file' writes it."""
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0 ",
        "xmax = 1.5 ",
    ]
    lines += ["tiers? <exists> ", f"size = {len(tiers) + 1} ", "item []: "]
    for number, (name, segments) in enumerate(tiers.items(), start=1):
        lines += [f"    item [{number}]:", '        class = "IntervalTier" ']
        lines += [f"        name = {quoted(name)} ", "        xmin = 0 ", "        xmax = 1.5 "]
        lines += [f"        intervals: size = {len(segments)} "]
        for place, (start, end, label) in enumerate(segments, start=1):
            lines += [f"        intervals [{place}]:", f"            xmin = {start} "]
            lines += [f"            xmax = {end} ", f"            text = {quoted(label)} "]
    lines += [f"    item [{len(tiers) + 1}]:", '        class = "TextTier" ', '        name = "p" ']
    lines += ["        xmin = 0 ", "        xmax = 1.5 ", "        points: size = 1 "]
    lines += ["        points [1]:", "            number = 0.5 ", '            mark = "click" ', ""]
    return "\n".join(lines)


def short_form(tiers: Tiers) -> str:
    """Return a TextGrid as Praat's 'Save as short text file' writes it."""
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "0", "1.5", "<exists>"]
    lines += [str(len(tiers) + 1), '"TextTier"', '"p"', "0", "1.5", "1", "0.5", '"click"']
    for name, segments in tiers.items():
        lines += ['"IntervalTier"', quoted(name), "0", "1.5", str(len(segments))]
        for start, end, label in segments:
            lines += [str(start), str(end), quoted(label)]
    return "\n".join([*lines, ""])


ENCODINGS = {
    "utf-8": b"",
    "utf-8-sig": b"",
    "utf-16": b"",
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-16-le": b"",  # without a byte-order mark
}


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("form", [long_form, short_form])
def test_every_writers_textgrid_gives_the_same_phones(
    tmp_path: Path, form: object, encoding: str, line_end: str
) -> None:
    text = (long_form if form is long_form else short_form)(TIERS).replace("\n", line_end)
    (tmp_path / "u.1.TextGrid").write_bytes(ENCODINGS[encoding] + text.encode(encoding))
    assert read_alignment(tmp_path).segments == {"u.1": PHONES}
    assert read_alignment(tmp_path / "u.1.TextGrid").segments == {"u.1": PHONES}
    words = read_alignment(tmp_path, tier="words").segments
    assert words == {"u.1": TIERS["words"]}
    assert [name for name, _ in parse_textgrid(text)] == ["words", "phones", "silences"]


def test_what_praat_writes_as_latin_1_is_read_as_praat_reads_it(tmp_path: Path) -> None:
    text = long_form({"phones": [(0.0, 1.5, "é")]})
    (tmp_path / "u.TextGrid").write_bytes(text.encode("latin-1"))
    assert read_alignment(tmp_path).segments == {"u": [(0.0, 1.5, "é")]}


def test_textgrids_in_folders_have_both_names_and_mfas_speakers_are_joined(tmp_path: Path) -> None:
    (tmp_path / "ann").mkdir()
    tiers = {"ann - phones": [(0.0, 0.5, "A")], "bob - phones": [(0.5, 1.5, "B")]}
    (tmp_path / "ann" / "u.textgrid").write_text(long_form(tiers), encoding="utf-8")
    (tmp_path / "ann" / "._u.textgrid").write_bytes(b"\0\5\x16\7")
    found = read_alignment(tmp_path)
    assert found.segments == {"ann-u": [(0.0, 0.5, "A"), (0.5, 1.5, "B")]}
    assert found.short_names == {"ann-u": "u"}
    (tmp_path / "bob").mkdir()
    (tmp_path / "bob" / "u.textgrid").write_text(long_form(tiers), encoding="utf-8")
    assert read_alignment(tmp_path).short_names == {}


def test_files_that_are_no_textgrid_or_lack_the_tier_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "good.TextGrid").write_text(long_form(TIERS), encoding="utf-8")
    (tmp_path / "cut.TextGrid").write_text(long_form(TIERS)[:-200], encoding="utf-8")
    (tmp_path / "binary.TextGrid").write_bytes(b"ooBinaryFile\x08TextGrid" + bytes(8))
    (tmp_path / "gone.TextGrid").symlink_to(tmp_path / "nowhere")
    (tmp_path / "empty.TextGrid").touch()
    (tmp_path / "words.TextGrid").write_text(long_form({"words": TIERS["words"]}))
    odd = {"phones": [(0.0, 0.0, "A"), (0.5, 0.25, "B"), (1.0, 1.5, "C")]}
    (tmp_path / "odd.TextGrid").write_text(long_form(odd))
    assert read_alignment(tmp_path).segments == {"good": PHONES, "odd": [(1.0, 1.5, "C")]}
    lines = caplog.messages
    assert any("3 files that cannot be read as TextGrid; the first is binary" in x for x in lines)
    assert any(
        "1 files without an interval tier 'phones'; the first is words.TextGrid (tiers: words)" in x
        for x in lines
    )
    assert any("2 segments without a positive duration" in x for x in lines)
    with pytest.raises(CorpusError, match=r"holds no segment; .*tiers: words, phones, silences"):
        read_alignment(tmp_path, tier="phone")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_ctm_file_keeps_its_first_utterance_in_every_encoding(
    tmp_path: Path, encoding: str
) -> None:
    text = "a 1 0.00 0.04 AA\r\nb 1 0.04 0.04 ɛ 0.98\r\n"
    (tmp_path / "p.ctm").write_bytes(ENCODINGS[encoding] + text.encode(encoding))
    found = read_alignment(tmp_path / "p.ctm").segments
    assert found == {"a": [(0.0, 0.04, "AA")], "b": [(0.04, 0.08, "ɛ")]}


@pytest.mark.parametrize("odd", ["0 0", "0 -1", "-1 0.5", "0 nan", "nan 1", "0 inf", "inf 1"])
def test_segments_of_no_duration_are_counted_and_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, odd: str
) -> None:
    ctm = tmp_path / "p.ctm"
    ctm.write_text(f"a 1 0 0.5 AA\nb 1 {odd} B\nb 1 {odd} B\n", encoding="utf-8")
    assert read_alignment(ctm).segments == {"a": [(0.0, 0.5, "AA")]}
    (line,) = caplog.messages
    assert "left out 2 segments without a positive duration, or with a negative start" in line
    assert "the first is line 2" in line
    ctm.write_text(f"b 1 {odd} B\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"p\.ctm: holds no segment; segments without a positive"):
        read_alignment(ctm)


def test_what_is_no_alignment_is_said_with_what_was_expected(tmp_path: Path) -> None:
    ctm = tmp_path / "phones.ctm"
    ctm.write_text("a 1 0.00 0.04 AA\na one 0 x\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"phones\.ctm, line 2: 'a one 0 x' is not"):
        read_alignment(ctm)
    ctm.write_text("a A 0.00 0.04 AA\nb 1 0 0.04 B\na B 0.10 0.04 AA\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"phones\.ctm, line 3: 'a' has channels A and B; expec"):
        read_alignment(ctm)
    with pytest.raises(CorpusError, match=r"none\.ctm: cannot be read"):
        read_alignment(tmp_path / "none.ctm")
    with pytest.raises(CorpusError, match=r"expected \.TextGrid files .*, found phones\.ctm"):
        read_alignment(tmp_path)
    ctm.write_text("\n", encoding="utf-8")
    with pytest.raises(CorpusError, match="holds no segment"):
        read_alignment(ctm)
