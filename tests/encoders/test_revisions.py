"""hf:<id>@<revision> against a hub of its own: pinned, resolved to a commit, and kept in the cache."""

import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import transformers

from builders import python, recipe, run, served, write_run
from mt4ssl_bench import results
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.downstream.evaluate import evaluate
from mt4ssl_bench.encoders.kinds.s3prl import _origin
from mt4ssl_bench.encoders.load import load_upstream
from mt4ssl_bench.encoders.origin import checkpoint_origin
from mt4ssl_bench.encoders.s3prl_entries import downloads

OLD, NEW = "a" * 40, "b" * 40
REVISIONS = {"v1": OLD, OLD: OLD, "main": NEW, NEW: NEW}
LOAD = """
import sys
from mt4ssl_bench.encoders.load import load_upstream
from mt4ssl_bench.errors import UpstreamError
for name in sys.argv[1:]:
    try:
        model = load_upstream(name)
        print(model.name, model.origin["revision"], model.origin["commit"], model.blueprint["name"])
    except UpstreamError as error:
        print("error:", error)
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """The two requests that Hugging Face's client makes for a file of the model lab/toy."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        self.folder = folder
        super().__init__(*arguments)  # type: ignore[arg-type]

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self.wfile.write(self._answer())

    def _answer(self) -> bytes:
        match = re.fullmatch(r"/lab/toy/resolve/([^/]+)/([^?]+).*", self.path)
        commit = REVISIONS.get(match[1]) if match else None
        file = self.folder / (commit or "") / (match[2] if match else "")
        error = "RepoNotFound" if not match else "RevisionNotFound" if not commit else ""
        error = error or ("" if file.is_file() else "EntryNotFound")
        content = b"" if error else file.read_bytes()
        self.send_response(404 if error else 200)
        if error:
            self.send_header("X-Error-Code", error)
        else:
            self.send_header("X-Repo-Commit", str(commit))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return content


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a client of a hub that holds two commits of a model."""
    folder = tmp_path_factory.mktemp("hub")
    for commit, width in ((OLD, 32), (NEW, 48)):
        config = transformers.HubertConfig(
            hidden_size=width, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
            conv_dim=[16] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
        )  # fmt: skip
        transformers.HubertModel(config).save_pretrained(folder / commit)
        transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder / commit)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        yield {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "0"}
        server.shutdown()


@pytest.mark.long
def test_a_revision_is_pinned_and_its_commit_stands_in_the_record(
    hub: dict[str, str], corpus: Corpus, tmp_path: Path
) -> None:
    done = run(
        *("evaluate", "hf:lab/toy@v1", "hf:lab/toy", "--task", recipe("speaker"), "steps=2"),
        *("--corpus", corpus.root, "--out", tmp_path, "--device", "cpu"),
        **hub,
    )
    assert done.returncode == 0, done.stderr
    found = {each.upstream["name"]: each.upstream for each in results.load_all(tmp_path)}
    assert {name: each["dim"] for name, each in found.items()} == {
        "hf:lab/toy@v1": 32,
        "hf:lab/toy": 48,
    }
    pinned = {"repository": "lab/toy", "revision": "v1", "commit": OLD}
    assert found["hf:lab/toy@v1"]["origin"] == pinned
    assert found["hf:lab/toy"]["origin"] == pinned | {"revision": "main", "commit": NEW}
    shown = run("show", next(tmp_path.glob("speaker-hf-lab-toy-v1-*.json")))
    assert f"weights: repository lab/toy, revision v1, commit {OLD}" in shown.stdout


@pytest.mark.long
def test_without_network_the_cache_serves_a_revision_and_others_give_one_line(
    hub: dict[str, str],
) -> None:
    names = ("hf:lab/toy@v1", "hf:lab/toy@v7", "hf:lab/other", "hf:lab/toy@")
    good, wrong, unknown, empty = python(LOAD, *names, **hub).splitlines()
    assert good == f"hf:lab/toy@v1 v1 {OLD} lab/toy@{OLD}"
    assert wrong == (
        "error: hf:lab/toy@v7: no such revision; expected a branch, tag or commit of "
        "https://huggingface.co/lab/toy/commits/main"
    )
    assert unknown.startswith("error: hf:lab/other: no such model on huggingface.co")
    assert empty.startswith("error: hf:lab/toy@: no revision after '@'; expected a branch")
    names = ("hf:lab/toy@v1", f"hf:lab/toy@{OLD}", "hf:lab/toy@v7", "hf:lab/other")
    offline = python(LOAD, *names, **hub | {"HF_HUB_OFFLINE": "1"}).splitlines()
    assert offline[:2] == [good, f"hf:lab/toy@{OLD} {OLD} {OLD} lab/toy@{OLD}"]
    for name, line in zip(names[2:], offline[2:], strict=True):
        assert line.startswith(
            f"error: {name}: not in the cache, and huggingface.co cannot be reached; without "
        )


def test_the_address_and_digest_of_a_checkpoint_stand_in_the_record(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_run(tmp_path / "run")
    digest = hashlib.sha256((model / "checkpoint.pt").read_bytes()).hexdigest()
    (result,) = evaluate(
        [str(model)], [recipe("speaker")], corpus.root, out=tmp_path / "out", overrides=["steps=2"]
    ).results
    file = {"address": str(model / "checkpoint.pt"), "sha256": digest}
    assert result.upstream["origin"] == file
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path / "torch"))
    with served(model) as address:
        upstream = load_upstream(f"mt4ssl_url:{address}/checkpoint.pt")
    assert getattr(upstream, "origin", None) == file | {"address": f"{address}/checkpoint.pt"}
    assert getattr(load_upstream("random:mt4ssl_tiny"), "origin", None) == {}
    assert getattr(load_upstream("fbank"), "origin", None) == {}


def test_what_s3prl_downloads_is_noted_when_it_is_in_the_cache_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s3prl.util import download

    monkeypatch.setattr(download, "_download_dir", tmp_path / "cache")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "weights.pt").write_bytes(b"weights and more")
    (tmp_path / "site" / "settings.yaml").write_bytes(b"settings")
    with served(tmp_path / "site") as address:
        urls = [f"{address}/weights.pt", f"{address}/settings.yaml"]
        for _ in range(2):
            with downloads() as used:
                paths = download._urls_to_filepaths(*urls)
            assert used == dict(zip(urls, map(Path, paths), strict=True))
    assert _origin(used, {}) == {
        "address": urls[0],
        "sha256": hashlib.sha256(b"weights and more").hexdigest(),
    }
    local = tmp_path / "site" / "weights.pt"
    assert _origin({}, {"ckpt": str(local)}) == checkpoint_origin(local)
    assert _origin({}, {"model_config": str(local)}) == {}
