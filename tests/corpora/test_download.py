"""Downloads from a real server on the loopback: interrupted, resumed, wrong, too large for the
disk, and hostile.
"""

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile

from builders import write_noise
from mt4ssl_bench.cli.app import app
from mt4ssl_bench.corpora.download import Archive, fetch, unpack
from mt4ssl_bench.corpora.prepare_source import Request, prepare_source
from mt4ssl_bench.corpora.source import SOURCES
from mt4ssl_bench.data import download
from mt4ssl_bench.errors import CorpusError


class Server(ThreadingHTTPServer):
    """Serves files by name, with ranges; `cuts` says after how many bytes the next answers break
    off.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cuts: list[int] = []
        self.ranges, self.tag, self.status = True, '"1"', 0
        self.asked: list[str] = []  # the Range header of each request
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        content = self.server.files.get(self.path.rsplit("/", 1)[-1])
        asked = self.headers.get("Range", "")
        self.server.asked.append(asked)
        if content is None or self.server.status:
            self.send_error(self.server.status or 404)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        if self.headers.get("If-Range", self.server.tag) != self.server.tag:
            start = 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", self.server.tag)
        self.end_headers()
        stop = self.server.cuts.pop(0) if self.server.cuts else len(content)
        self.wfile.write(content[start : start + stop])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "PAUSE", 0.0)
    made = Server()
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def packed(folder: Path) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    return stream.getvalue()


def sealed(server: Server, name: str, content: bytes) -> Archive:
    server.files[name] = content
    return Archive(
        f"{server.url}/{name}", f"md5:{hashlib.md5(content, usedforsecurity=False).hexdigest()}"
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A LibriSpeech tree of one chapter a part."""
    rng = np.random.default_rng(0)
    for speaker, part in enumerate(("train-clean-100", "dev-clean", "test-clean")):
        chapter = tmp_path / "made" / "LibriSpeech" / part / f"1{speaker}" / "7"
        chapter.mkdir(parents=True)
        for number in range(2):
            samples = 0.1 * rng.standard_normal(32_000)
            soundfile.write(chapter / f"1{speaker}-7-000{number}.flac", samples, 16_000)
        lines = [f"1{speaker}-7-000{number} HELLO THERE" for number in range(2)]
        (chapter / f"1{speaker}-7.trans.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "made" / "LibriSpeech"


def test_an_archive_is_fetched_checked_unpacked_once_and_removed(
    server: Server, tree: Path, tmp_path: Path
) -> None:
    archive = sealed(server, "train.tar.gz", packed(tree))
    fetch([archive], tmp_path / "in")
    assert sorted(file.name for file in (tmp_path / "in").iterdir()) == [
        ".train.tar.gz.unpacked",
        "LibriSpeech",
    ]
    assert len(list((tmp_path / "in").rglob("*.flac"))) == 6
    fetch([archive], tmp_path / "in")
    assert server.asked == [""]


def test_archives_without_a_folder_of_their_own_are_kept_apart(
    server: Server, tmp_path: Path
) -> None:
    source = SOURCES.get("speechcommands")
    for part, files in {
        "train": ("yes/0a_nohash_0.wav", "yes/0c_nohash_0.wav", "_background_noise_/tap.wav"),
        "test": ("yes/0b_nohash_0.wav", "_unknown_/0b_nohash_1.wav"),
    }.items():
        for file in files:
            write_noise(tmp_path / part / file, 2)
    archives = {}
    for name, part in (("v0.01", "train"), ("test-v0.01", "test")):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w:gz") as tar:
            for folder in (tmp_path / part).iterdir():
                tar.add(folder, arcname=f"./{folder.name}")
        archive = sealed(server, f"{part}.tar.gz", stream.getvalue())
        archives[name] = replace(archive, folder=source.archives[name].folder)
    options = source.options(noise_crops=2)
    made = [
        prepare_source(replace(source, archives=archives), options, tmp_path / out, request).corpus
        for out, request in (
            ("out", Request(download=True)),
            ("again", Request(roots={"": tmp_path})),
        )
    ]
    assert made[0].info.digest == made[1].info.digest
    assert (tmp_path / "out/source/speech_commands_v0.01/yes/0a_nohash_0.wav").is_file()
    assert made[0].info.splits["test"].utterances == 2


def test_a_broken_connection_is_continued_where_it_broke(
    server: Server, tree: Path, tmp_path: Path
) -> None:
    archive = sealed(server, "train.tar.gz", packed(tree))
    server.cuts = [40_000, 50_000, 0, 10_000]
    fetch([archive], tmp_path / "in")
    assert server.asked == ["", "bytes=40000-", "bytes=90000-", "bytes=90000-", "bytes=100000-"]


def test_after_five_vain_tries_the_same_command_continues(
    server: Server, tree: Path, tmp_path: Path
) -> None:
    archive = sealed(server, "train.tar.gz", packed(tree))
    server.cuts = [40_000, 0, 0, 0, 0, 0]
    with pytest.raises(
        CorpusError,
        match=r"interrupted after 40,000 bytes \(.*\); rerun the same command to resume",
    ):
        fetch([archive], tmp_path / "in")
    assert not (tmp_path / "in" / "train.tar.gz").exists()
    server.cuts = []
    fetch([archive], tmp_path / "in")
    assert server.asked[-1] == "bytes=40000-"
    assert (tmp_path / "in" / "LibriSpeech").is_dir()


def test_a_file_that_changed_meanwhile_is_never_joined_to_its_old_part(
    server: Server, tree: Path, tmp_path: Path
) -> None:
    old = sealed(server, "train.tar.gz", packed(tree))
    server.cuts = [40_000, 0, 0, 0, 0, 0]
    with pytest.raises(CorpusError, match="interrupted"):
        fetch([old], tmp_path / "in")
    new = sealed(server, "train.tar.gz", packed(tree / "train-clean-100"))
    server.cuts, server.tag = [], '"2"'
    fetch([new], tmp_path / "in")
    assert (tmp_path / "in" / "train-clean-100").is_dir()


def test_a_server_without_ranges_sends_it_all_again(
    server: Server, tree: Path, tmp_path: Path
) -> None:
    archive = sealed(server, "train.tar.gz", packed(tree))
    server.cuts, server.ranges = [40_000], False
    fetch([archive], tmp_path / "in")
    assert (tmp_path / "in" / "LibriSpeech").is_dir()


def test_a_part_that_was_whole_already_is_taken(server: Server, tree: Path, tmp_path: Path) -> None:
    archive = sealed(server, "train.tar.gz", packed(tree))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "train.tar.gz.part").write_bytes(server.files["train.tar.gz"])
    fetch([archive], tmp_path / "in")
    assert (tmp_path / "in" / "LibriSpeech").is_dir()


def test_a_wrong_checksum_is_an_error_and_the_file_is_removed(
    server: Server, tree: Path, tmp_path: Path
) -> None:
    archive = sealed(server, "train.tar.gz", packed(tree))
    server.files["train.tar.gz"] = server.files["train.tar.gz"][:-1] + b"?"
    with pytest.raises(
        CorpusError,
        match=r"expected md5 [0-9a-f]{32} as its publisher states, got [0-9a-f]{32}; the file was",
    ):
        fetch([archive], tmp_path / "in")
    assert not (tmp_path / "in" / "LibriSpeech").exists()
    assert not list((tmp_path / "in").glob("*.part"))


@pytest.mark.parametrize(
    ("status", "message"), [(404, "HTTP 404 .*; --mirror"), (503, r"interrupted .*\(HTTP 503\)")]
)
def test_what_the_server_refuses_is_named(
    server: Server, tmp_path: Path, status: int, message: str
) -> None:
    server.status = status
    with pytest.raises(CorpusError, match=message):
        fetch([Archive(f"{server.url}/train.tar.gz")], tmp_path)


def test_no_server_and_no_web_address_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(download, "PAUSE", 0.0)
    with pytest.raises(CorpusError, match=r"interrupted after 0 bytes \(.*refused.*\)"):
        fetch([Archive("http://127.0.0.1:9/a.tar")], tmp_path)
    with pytest.raises(CorpusError, match="not an http or https address"):
        fetch([Archive("file:///etc/passwd")], tmp_path)


def test_a_full_disk_is_one_line_and_the_same_command_continues(
    server: Server, tree: Path, tmp_path: Path
) -> None:
    archive = sealed(server, "train.tar.gz", packed(tree))
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom mt4ssl_bench.corpora.download import "
        "Archive, fetch\nresource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "try: fetch([Archive(sys.argv[1], sys.argv[2])], Path(sys.argv[3]))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    command = [sys.executable, "-c", code, archive.url, archive.checksum, str(tmp_path / "in")]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    assert "CorpusError" in found.stdout
    assert "File too large after " in found.stdout
    assert "make room; rerun the same command to resume" in found.stdout
    fetch([archive], tmp_path / "in")
    assert (tmp_path / "in" / "LibriSpeech").is_dir()


def test_too_little_room_is_known_before_a_byte_is_written(
    server: Server, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = sealed(server, "train.tar.gz", packed(tree))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 0, 10))
    with pytest.raises(CorpusError, match=r"bytes to come, 10 are free; .*--from .*another folder"):
        fetch([archive], tmp_path / "in")


def test_half_an_archive_and_what_is_no_archive_are_named(tree: Path, tmp_path: Path) -> None:
    whole = packed(tree)
    for content in (whole[: len(whole) // 2], whole[:-4], b"<html>not found</html>", b""):
        (tmp_path / "a.tar.gz").write_bytes(content)
        with pytest.raises(CorpusError, match=r"a\.tar\.gz: damaged"):
            unpack(tmp_path / "a.tar.gz", tmp_path / "in")


@pytest.mark.parametrize("kind", ["path", "absolute", "link"])
def test_an_archive_that_reaches_outside_its_folder_is_refused(tmp_path: Path, kind: str) -> None:
    member = tarfile.TarInfo(
        "/etc/evil" if kind == "absolute" else "../evil" if kind == "path" else "inner"
    )
    if kind == "link":
        member.type, member.linkname = tarfile.SYMTYPE, "../../evil"
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(member)
    (tmp_path / "in").mkdir()
    if kind == "absolute":  # the leading / is dropped: it lands inside
        unpack(tmp_path / "a.tar", tmp_path / "in")
        assert (tmp_path / "in" / "etc" / "evil").exists()
        return
    with pytest.raises(CorpusError, match="rejected: "):
        unpack(tmp_path / "a.tar", tmp_path / "in")
    assert not list(tmp_path.glob("evil"))


def test_librispeech_goes_from_a_server_to_a_corpus_that_can_be_moved(
    server: Server, tree: Path, tmp_path: Path
) -> None:
    parts, archives = ("train-clean-100", "dev-clean", "test-clean"), {}
    for part in parts:
        (tmp_path / "one" / "LibriSpeech").mkdir(parents=True)
        (tree / part).rename(tmp_path / "one" / "LibriSpeech" / part)
        archive = sealed(server, f"{part}.tar.gz", packed(tmp_path / "one" / "LibriSpeech"))
        archives[part] = Archive(f"http://x/{part}.tar.gz", archive.checksum)
        shutil.rmtree(tmp_path / "one")
    server.cuts = [30_000]
    source, out = replace(SOURCES.get("librispeech"), archives=archives), tmp_path / "out"
    request = Request(download=True, mirror=server.url)
    corpus = prepare_source(source, source.options(), out, request).corpus
    plain = {
        name: split.utterances
        for name, split in corpus.info.splits.items()
        if not name.startswith("sid_")
    }
    assert plain == {"train": 2, "valid": 2, "test": 2}
    assert next(iter(corpus.cuts("train"))).recording.sources[0].source.startswith(str(out))
    assert corpus.info.notes["citation"].startswith("Panayotov")
    asked = len(server.asked)
    again = prepare_source(source, source.options(), out, request).corpus
    assert (again.info, len(server.asked)) == (corpus.info, asked)


def test_the_command_takes_a_mirror(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "free-spoken-digit-dataset-1.0.10" / "recordings"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(12):
        soundfile.write(folder / f"3_ann_{number}.wav", 0.1 * rng.standard_normal(8_000), 8_000)
    sealed(server, "v1.0.10.tar.gz", packed(folder.parent))
    out = tmp_path / "out"
    app(
        ["prepare", "fsdd", "--download", "--mirror", server.url, "--out", str(out)],
        standalone_mode=False,
    )
    assert (out / "corpus.json").is_file()
