"""Every container that libsndfile writes: whole, cut short, never closed, continued.

None is silent.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mt4ssl_bench.cli.app import app
from mt4ssl_bench.corpora.check import check_corpus
from mt4ssl_bench.corpora.prepare import prepare
from mt4ssl_bench.corpora.prepare_source import prepare_path
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.data import audio, audio_headers
from mt4ssl_bench.data.containers import defect_of
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.signal import examine
from mt4ssl_bench.errors import CorpusError

RATE = 16_000
WHOLE = np.round(3000 * np.random.default_rng(0).standard_normal(3 * RATE)).astype(np.int16)
SAMPLES = WHOLE.astype(np.float32) / 2**15

ZOO = {  # file name -> libsndfile's format and subtype
    "wav.wav": ("WAV", "PCM_16"),
    "extensible.wav": ("WAVEX", "PCM_16"),
    "float.wav": ("WAV", "FLOAT"),
    "mulaw.wav": ("WAV", "ULAW"),
    "adpcm.wav": ("WAV", "IMA_ADPCM"),
    "rf64.rf64": ("RF64", "PCM_16"),
    "w64.w64": ("W64", "PCM_16"),
    "aiff.aiff": ("AIFF", "PCM_16"),
    "au.au": ("AU", "PCM_16"),
    "caf.caf": ("CAF", "PCM_16"),
    "alac.caf": ("CAF", "ALAC_16"),
    "nist.sph": ("NIST", "PCM_16"),
    "flac.flac": ("FLAC", "PCM_16"),
    "vorbis.ogg": ("OGG", "VORBIS"),
    "opus.opus": ("OGG", "OPUS"),
    "mp3.mp3": ("MP3", "MPEG_LAYER_III"),
}
DECODED = {"flac.flac"}  # whose headers state no size: only decoding shows that its end is lost


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    for name, (kind, subtype) in ZOO.items():
        soundfile.write(folder / name, WHOLE, RATE, format=kind, subtype=subtype)
    return folder


def of(path: Path) -> str:
    """Return the kind of a file's defect by its headers, or ""."""
    frames, rate, _ = audio_headers.probe(path)
    defect = defect_of(path, frames=frames, rate=rate, search=True)
    return defect[0] if defect else ""


def found(corpus: Corpus, kind: str, *, full: bool) -> set[str]:
    return {
        example.split(" ")[0]
        for finding in check_corpus(corpus, full=full).findings
        if finding.kind == kind
        for example in finding.examples
    }


def patched(path: Path, out: Path, *changes: tuple[int, bytes]) -> Path:
    """Write a copy with other bytes at some places."""
    content = bytearray(path.read_bytes())
    for at, data in changes:
        content[at : at + len(data)] = data
    out.write_bytes(content)
    return out


def chunk(path: Path, name: bytes) -> int:
    """Return where the content of a chunk begins, behind a size of four bytes."""
    return path.read_bytes().index(name) + 8


@pytest.mark.parametrize("name", ZOO)
def test_a_whole_file_is_read_and_nothing_is_said_of_it(zoo: Path, name: str) -> None:
    frames, rate, channels = audio_headers.probe(zoo / name)
    assert (rate, channels) == (RATE, 1)
    assert abs(frames - len(SAMPLES)) <= (1000 if name == "adpcm.wav" else 0)
    assert of(zoo / name) == ""
    samples = audio.read_file(zoo / name)
    assert len(samples) == frames
    if ZOO[name][1] in {"PCM_16", "ALAC_16"}:
        assert np.array_equal(samples, SAMPLES)
    assert examine(zoo / name).frames == frames


@pytest.mark.parametrize("share", [0.4, 0.9, 1.0])
def test_each_container_cut_short_is_named(zoo: Path, tmp_path: Path, share: float) -> None:
    """By the headers in prepare and check, by decoding in check --full; 1.0 lacks two bytes."""
    for name in ZOO:
        content = (zoo / name).read_bytes()
        kept = min(round(share * len(content)), len(content) - 2)
        (tmp_path / name).write_bytes(content[:kept])
    refused: dict[str, str] = {}
    for name in ZOO:
        one = tmp_path / f"{share}-{name}"
        one.mkdir()
        shutil.copy(tmp_path / name, one)
        try:
            corpus = prepare_path("folder", one, one / "corpus")
        except CorpusError as error:  # libsndfile opens no CAF without its end, no Ogg of one page
            refused[name] = str(error)
            continue
        stem = Path(name).stem
        assert found(corpus, "truncated", full=True) == {stem}, name
        if name not in DECODED:
            assert corpus.info.notes["check"]["truncated"] == 1, name
            assert found(corpus, "truncated", full=False) == {stem}, name
    assert refused.keys() <= {"caf.caf", "alac.caf", "vorbis.ogg", "opus.opus"}
    for reason in refused.values():
        assert re.search("bytes that its CAF header states|ends inside an Ogg page", reason)


def test_a_container_that_no_longer_opens_is_truncated(zoo: Path, tmp_path: Path) -> None:
    shutil.copy(zoo / "caf.caf", tmp_path)
    corpus = prepare_path("folder", tmp_path, tmp_path / "corpus")
    content = (tmp_path / "caf.caf").read_bytes()
    (tmp_path / "caf.caf").write_bytes(content[: len(content) // 2])
    for full in (False, True):
        assert found(corpus, "truncated", full=full) == {"caf"}


def test_a_flac_file_that_ends_inside_its_last_short_frame_is_truncated(tmp_path: Path) -> None:
    """That frame is under the 0.1 s by which an MP3's length may be off."""
    soundfile.write(tmp_path / "a.flac", SAMPLES[: 4096 * 3 + 500], RATE)
    content = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(content[:-3])
    corpus = prepare_path("folder", tmp_path, tmp_path / "corpus")
    assert found(corpus, "truncated", full=True) == {"a"}


@pytest.mark.parametrize(
    ("name", "place", "size"),
    [
        ("wav.wav", b"data", bytes(4)),
        ("extensible.wav", b"data", bytes(4)),
        ("au.au", b".snd", bytes(4)),  # the second number behind the magic
        ("caf.caf", b"data", bytes(8)),
        ("caf.caf", b"data", b"\xff" * 8),  # "to the end", which libsndfile does not read
    ],
)
def test_a_header_that_was_never_closed_is_named_with_its_bytes(
    zoo: Path, tmp_path: Path, name: str, place: bytes, size: bytes
) -> None:
    at = 8 if name == "au.au" else chunk(zoo / name, place) - 4
    path = patched(zoo / name, tmp_path / name, (at, size))
    said = (
        r"header was never closed; 96,000 bytes follow; ffmpeg -i \S+ \S+-repaired\.flac repairs it"
    )
    with pytest.raises(CorpusError, match=said):
        audio_headers.probe(path)
    with pytest.raises(CorpusError, match=said):
        prepare(
            [Row(id="a", path=path, split="train")], tmp_path / "out", source=tmp_path, name="x"
        )


def test_a_flac_file_from_a_pipe_states_no_length_and_one_that_lies_takes_no_memory(
    zoo: Path, tmp_path: Path
) -> None:
    four = (zoo / "flac.flac").read_bytes()[21] & 0xF0  # the upper bits belong to another field
    piped = patched(zoo / "flac.flac", tmp_path / "piped.flac", (21, bytes([four]) + bytes(4)))
    with pytest.raises(CorpusError, match=r"piped\.flac: its FLAC header states no length; ffmpeg"):
        audio_headers.probe(piped)
    lie = bytes([four | 0x0F]) + b"\xff" * 4
    path = patched(zoo / "flac.flac", tmp_path / "lie.flac", (21, lie))
    with pytest.raises(CorpusError, match="68,719,476,735 samples, more than"):
        audio_headers.probe(path)
    with pytest.raises(CorpusError, match=r"lie\.flac"):
        audio.read_file(path, count=2**36 - 1)


def test_two_wav_files_in_one_are_named(zoo: Path, tmp_path: Path) -> None:
    content = (zoo / "wav.wav").read_bytes()
    (tmp_path / "two.wav").write_bytes(content + content)
    with pytest.raises(CorpusError, match="a second WAV file of 96,044 bytes follows the first"):
        audio_headers.probe(tmp_path / "two.wav")
    picture = b"ID3\x03\0\0\0\x03\0\0" + bytes(3 << 14)  # a cover, as some players append it
    (tmp_path / "cover.wav").write_bytes(content + picture)
    assert of(tmp_path / "cover.wav") == ""


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
def test_a_size_that_means_to_the_end_is_no_defect(zoo: Path, tmp_path: Path, size: int) -> None:
    at = chunk(zoo / "wav.wav", b"data") - 4
    path = patched(zoo / "wav.wav", tmp_path / "open.wav", (at, size.to_bytes(4, "little")))
    assert audio_headers.probe(path)[0] == len(SAMPLES)
    assert of(path) == ""


@pytest.mark.parametrize("name", ["wav.wav", "flac.flac", "mp3.mp3"])
def test_tags_around_the_audio_are_no_audio(zoo: Path, tmp_path: Path, name: str) -> None:
    """ID3v2 before it, a chunk or ID3v1 behind it."""
    content = (zoo / name).read_bytes()
    before = b"" if name == "wav.wav" else b"ID3\x04\0\0\0\0\x10\0" + bytes(2048)
    behind = {"wav.wav": b"LIST" + (20_000).to_bytes(4, "little") + bytes(20_000)}
    path = tmp_path / name
    path.write_bytes(before + content + behind.get(name, b"TAG" + b"x" * 125))
    assert audio_headers.probe(path)[0] == len(SAMPLES)
    assert of(path) == ""


@pytest.mark.parametrize(
    "name", ["wav.wav", "au.au", "flac.flac", "vorbis.ogg", "opus.opus", "mp3.mp3"]
)
def test_a_file_that_goes_on_behind_its_stated_end_is_named(
    zoo: Path, tmp_path: Path, name: str
) -> None:
    content = (zoo / name).read_bytes()
    more = bytes(range(1, 251)) * 200 if name in {"wav.wav", "au.au"} else content
    (tmp_path / name).write_bytes(content + more)
    assert of(tmp_path / name) == "longer"
    corpus = prepare_path("folder", tmp_path, tmp_path / "corpus")
    assert corpus.info.notes["check"]["longer"] == 1
    assert found(corpus, "longer", full=True) == {Path(name).stem}


def test_an_mp3_whose_length_is_an_estimate_is_named_with_its_length(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tone, silence and noise at a variable rate, without the header that counts the frames."""
    tone = 0.3 * np.sin(np.arange(2 * RATE) / 10)
    sound = np.concatenate([tone, np.zeros(8 * RATE), SAMPLES, SAMPLES[: 2 * RATE]])
    with_header = tmp_path / "with.mp3"
    soundfile.write(
        with_header, sound, RATE, format="MP3", subtype="MPEG_LAYER_III",
        bitrate_mode="VARIABLE", compression_level=0.5,
    )  # fmt: skip
    content = with_header.read_bytes()
    (tmp_path / "without.mp3").write_bytes(content[content.index(content[:2], 4) :])
    assert of(with_header) == ""
    corpus = prepare_path("folder", tmp_path, tmp_path / "corpus")
    assert corpus.info.notes["check"]["longer"] == 1
    assert app(["check", str(corpus.root)], standalone_mode=False) == 1
    printed = capsys.readouterr().out
    assert "without (no header states its length: 2.7" in printed
    assert "its frames last 15.08 s; ffmpeg -i " in printed


def test_whatever_stands_in_a_header_the_answer_is_a_defect_or_none(
    zoo: Path, tmp_path: Path
) -> None:
    draw, path = np.random.default_rng(0), tmp_path / "any"
    for name in ZOO:
        content = (zoo / name).read_bytes()[:6000]
        for _ in range(15):
            spoiled = bytearray(content)
            for place in draw.integers(0, 120, draw.integers(1, 9)):
                spoiled[place] = draw.choice([0, 1, 64, 127, 255])
            path.write_bytes(spoiled[: draw.integers(0, len(spoiled) + 1)])
            frames = int(draw.choice([0, 1, 48_000]))
            defect = defect_of(path, frames=frames, rate=RATE, search=True)
            assert defect is None or defect[0] in {"truncated", "longer", "unfinished"}


def lossless(zoo: Path) -> Iterator[Path]:
    return (zoo / name for name, (_, subtype) in ZOO.items() if subtype in {"PCM_16", "ALAC_16"})


def test_equal_samples_have_one_digest_in_every_lossless_container(
    zoo: Path, tmp_path: Path
) -> None:
    digests = {examine(path).digest for path in lossless(zoo)}
    assert len(digests) == 1
    samples, _ = soundfile.read(zoo / "wav.wav", dtype="float32")
    for name, subtype, shape in (
        ("24.wav", "PCM_24", 1),
        ("f.wav", "FLOAT", 1),
        ("2.flac", None, 2),
    ):
        soundfile.write(tmp_path / name, np.stack([samples] * shape, axis=1), RATE, subtype=subtype)
        assert examine(tmp_path / name).digest in digests, name
    soundfile.write(tmp_path / "rate.wav", samples, 8_000)
    assert examine(tmp_path / "rate.wav").digest not in digests
    assert examine(zoo / "vorbis.ogg").digest not in digests


def test_a_leak_across_containers_is_found_by_samples_and_the_report_names_the_way(
    zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        Row(id=path.name, path=path, speaker="ann", sid_split=split, split=split)
        for path, split in zip(lossless(zoo), ["train", "valid", *["test"] * 20], strict=False)
    ]
    corpus = prepare(rows, tmp_path / "out", source=zoo, name="zoo")
    assert found(corpus, "leak", full=False) == set()
    report = check_corpus(corpus, full=True)
    leaks = {finding.split: finding.count for finding in report.findings if finding.kind == "leak"}
    tested = len(rows) - 2
    assert leaks == {"valid": 1, "test": tested, "sid_valid": 1, "sid_test": tested}
    assert report.to_json()["compared"] == "samples"
    assert app(["check", str(corpus.root)], standalone_mode=False) != 1
    assert "leaks: by the files' bytes; --full finds the same samples" in capsys.readouterr().out
    assert app(["check", str(corpus.root), "--full"], standalone_mode=False) == 1
    assert "leaks: by decoded samples; a copy in a lossy format is not" in capsys.readouterr().out


def test_a_part_of_a_recording_leaks_when_another_file_holds_the_same_samples(
    zoo: Path, tmp_path: Path
) -> None:
    samples, _ = soundfile.read(zoo / "wav.wav", dtype="float32")
    soundfile.write(tmp_path / "part.flac", samples[RATE : 2 * RATE], RATE)
    rows = [
        Row(id="part", path=zoo / "wav.wav", start=1.0, seconds=1.0, split="train"),
        Row(id="own", path=tmp_path / "part.flac", split="test"),
    ]
    corpus = prepare(rows, tmp_path / "out", source=zoo, name="parts")
    assert found(corpus, "leak", full=True) == {"own"}
