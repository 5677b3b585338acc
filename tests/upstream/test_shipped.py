"""The model in the package: loaded everywhere by its name, without a network, if it is intact."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from builders import toy_config, waves, write_run
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.encoders.load import load_upstream
from mt4ssl_bench.errors import CheckpointError, UpstreamError
from mt4ssl_bench.upstream.checkpoints import shipped
from mt4ssl_bench.upstream.checkpoints.export import to_s3prl
from mt4ssl_bench.upstream.expert import UpstreamExpert, mt4ssl, register
from mt4ssl_bench.upstream.pretrain import build_model

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "upstream" / "shipped"
FILE = FOLDER / "mt4ssl.safetensors"
SPEECH = os.environ.get("MT4SSL_BENCH_SPEECH", "")
LENGTHS = (8_000, 5_000)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A toy model in the place of the shipped one; returns its file."""
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "shipped")
    run = write_run(tmp_path / "run", "frontend.mels=20", seed=3, corpus_digest="0", step=2)
    file = tmp_path / "shipped" / "mt4ssl.safetensors"
    to_s3prl(run, file, half=True)
    shipped.write_digest(file)
    return file


def test_it_is_the_same_model_under_every_name(toy: Path) -> None:
    register()
    from s3prl.nn import S3PRLUpstream

    x, lengths = waves(*LENGTHS)
    ours = load_upstream("mt4ssl")
    assert ours.name == "mt4ssl"
    assert ours.fingerprint == load_upstream(str(toy)).fingerprint
    assert ours.fingerprint == load_upstream(f"mt4ssl_local:{toy}").fingerprint
    found = ours.extract(x, lengths)
    theirs = S3PRLUpstream("mt4ssl").eval()
    hub = torch.hub.load(str(ROOT), "mt4ssl", source="local").eval()
    with torch.no_grad():
        hidden, _ = theirs(x, lengths)
        layers = hub([x[0], x[1, :5_000]])["hidden_states"]
    for ours_at, theirs_at, hub_at in zip(found.layers, hidden, layers, strict=True):
        torch.testing.assert_close(theirs_at[:, :15], ours_at[:, :15], atol=1e-5, rtol=0)
        torch.testing.assert_close(hub_at[:, :15], ours_at[:, :15], atol=1e-5, rtol=0)


def test_half_precision_changes_features_by_little(toy: Path) -> None:
    assert {tensor.dtype for tensor in load_file(toy).values()} == {torch.float16}
    x, lengths = waves(*LENGTHS)
    half, full = load_upstream("mt4ssl"), load_upstream(str(toy.parent.parent / "run"))
    found, expected = half.extract(x, lengths).layers, full.extract(x, lengths).layers
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)


def test_pretraining_starts_from_it(toy: Path) -> None:
    model = build_model(toy_config("frontend.mels=20", "init=mt4ssl"), "cpu")
    for name, tensor in load_file(toy).items():
        assert model.state_dict()[name].equal(tensor.float()), name


def test_a_run_of_that_name_goes_first(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "mt4ssl", "frontend.mels=20", seed=4)
    shipped_mark = load_upstream("mt4ssl").fingerprint
    monkeypatch.chdir(tmp_path)
    assert load_upstream("mt4ssl").fingerprint != shipped_mark
    assert shipped.located("mt4ssl") == Path("mt4ssl")


@pytest.mark.parametrize("change", ["flipped", "short"])
def test_a_damaged_file_is_one_line(toy: Path, change: str) -> None:
    data = bytearray(toy.read_bytes())
    data[-1] ^= 1
    toy.write_bytes(data if change == "flipped" else data[:-1])
    for load in (lambda: load_upstream("mt4ssl"), mt4ssl):
        with pytest.raises(CheckpointError, match=r"mt4ssl\.safetensors: damaged") as error:
            load()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("lost", ["mt4ssl.safetensors", "mt4ssl.sha256"])
def test_an_installation_without_it_says_so(toy: Path, lost: str) -> None:
    (toy.parent / lost).unlink()
    for load in (lambda: load_upstream("mt4ssl"), lambda: UpstreamExpert(shipped.shipped())):
        with pytest.raises(UpstreamError, match="this installation has no pretrained model") as end:
            load()
        assert "\n" not in str(end.value)


def test_another_program_s_safetensors_file_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="not a checkpoint of mt4ssl-bench"):
        load_upstream(str(tmp_path / "other.safetensors"))
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    with pytest.raises(CheckpointError, match=r"cut\.safetensors: truncated, damaged"):
        load_upstream(str(tmp_path / "cut.safetensors"))


def test_it_gives_features_without_a_network_in_five_seconds() -> None:
    script = """
import socket, sys, time
def blocked(*args, **kwargs):
    raise RuntimeError("network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = blocked
start = time.process_time()  # other programs may be running
import torch
from mt4ssl_bench import load_upstream
upstream = load_upstream("mt4ssl")
features = upstream.extract(torch.randn(1, 16_000), torch.tensor([16_000]))
assert features.layers.shape == (upstream.num_layers, 1, 49, upstream.dim)
assert features.layers.isfinite().all()
print(time.process_time() - start)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd="/"
    )
    assert float(done.stdout) < 5


def test_it_is_small_and_its_card_describes_it() -> None:
    assert FILE.stat().st_size <= 6 * 2**20
    upstream = load_upstream("mt4ssl")
    assert upstream.stride == 320
    assert 2e6 <= upstream.parameters <= 3e6
    card = (FOLDER / "mt4ssl.md").read_text(encoding="utf-8")
    assert upstream.fingerprint in card
    assert "CC BY 4.0" in card
    assert all(name in card for name in ids("train"))


def ids(split: str) -> set[str]:
    rows = (FOLDER / "mt4ssl.ids").read_text(encoding="utf-8").splitlines()
    return {name for found, name in (row.split("\t") for row in rows) if found == split}


def test_no_utterance_is_listed_twice() -> None:
    assert len(ids("train")) == 1_250
    assert not ids("train") & ids("valid")


@pytest.mark.speech
@pytest.mark.skipif(not SPEECH, reason="MT4SSL_BENCH_SPEECH names no folder of real speech")
def test_it_was_trained_on_train_utterances_only() -> None:
    splits: dict[str, set[str]] = {}
    speakers: dict[str, set[str]] = {}
    with (Path(SPEECH) / "speechocean762" / "manifest.tsv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            splits.setdefault(row["split"], set()).add(row["id"])
            speakers.setdefault(row["split"], set()).add(row["speaker"])
    libri = Path(SPEECH) / "librispeech_mini" / "LibriSpeech"
    clean = {file.stem for file in (libri / "train-clean-100").rglob("*.flac")}
    other = {file.stem for file in (libri / "test-other").rglob("*.flac")}
    assert ids("train") == splits["train"] | clean
    assert ids("valid") == splits["valid"]
    assert not ids("train") & (splits["valid"] | splits["test"] | other)
    assert not speakers["train"] & (speakers["valid"] | speakers["test"])
    assert not {name.split("-")[0] for name in clean} & {name.split("-")[0] for name in other}


def test_the_build_uses_the_listed_utterances_only(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import build_model

    train = [cut.id for cut in corpus.cuts("train")]
    valid = [cut.id for cut in corpus.cuts("valid")]
    chosen = [("train", name) for name in train[::2]] + [("valid", valid[0])]
    listing = tmp_path / "ids"
    listing.write_text("".join(f"{split}\t{name}\n" for split, name in chosen), encoding="utf-8")
    monkeypatch.setattr(build_model, "IDS", listing)
    keys = [
        "fit.steps=2", "encoder.dim=32", "encoder.heads=2", "encoder.ffn=32", "data.min_seconds=0.5",
        "targets.offline.clusters=8", "targets.online.top_k=1",
    ]  # fmt: skip
    file = build_model.build([corpus], tmp_path / "build", keys)
    made = Corpus.open(tmp_path / "build" / "corpus")
    assert {cut.id for cut in made.cuts("train")} == set(train[::2])
    assert {cut.id for cut in made.cuts("valid")} == {valid[0]}
    assert load_upstream(str(file)).dim == 32
    assert (tmp_path / "build" / "mt4ssl.sha256").read_text().endswith("  mt4ssl.safetensors\n")
    listing.write_text("train\tnobody\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="the first is 'nobody'"):
        build_model.select([corpus], tmp_path / "again")
