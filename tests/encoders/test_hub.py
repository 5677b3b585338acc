"""Our checkpoints in the real s3prl and in torch.hub.

S3prl's own test/test_upstream.py, written again.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from builders import TOY, served, write_run
from fakes import USER_CLASS
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.downstream.evaluate import evaluate
from mt4ssl_bench.encoders.kinds.s3prl import S3PRLUpstream
from mt4ssl_bench.encoders.load import load_upstream
from mt4ssl_bench.errors import BenchError, CheckpointError, UpstreamError
from mt4ssl_bench.results.leaderboard import Leaderboard
from mt4ssl_bench.upstream import encoder, expert, kernels
from mt4ssl_bench.upstream.checkpoints import encoder_adapter
from mt4ssl_bench.upstream.checkpoints.export import to_s3prl
from mt4ssl_bench.upstream.expert import UpstreamExpert, register

ROOT = Path(__file__).parents[2]
ATOL, MAX_LENGTH_DIFF, EXTRA_SHORT_SEC, TEST_MORE_ITER, TRAIN_MORE_ITER = (
    0.01,
    3,
    0.05,
    2,
    5,
)  # s3prl's


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "toy", "encoder.layer_drop=0.5", seed=3)


def s3prl_upstream(run: Path) -> Any:
    register()
    from s3prl.nn import S3PRLUpstream

    return S3PRLUpstream("mt4ssl_local", str(run / "checkpoint.pt"))


def extract(model: Any, seed: int = 0, **pseudo: float) -> list[Tensor]:
    from s3prl.util.pseudo_data import get_pseudo_wavs

    hidden: list[Tensor] = model(*get_pseudo_wavs(seed=seed, padded=True, **pseudo))[0]
    return hidden


def test_s3prls_test_of_determinism_and_layer_counts(run: Path) -> None:
    model = s3prl_upstream(run).eval()
    with torch.no_grad():
        first = extract(model)
        for _ in range(TEST_MORE_ITER):
            for a, b in zip(first, extract(model), strict=True):
                assert torch.allclose(a, b)
        assert {len(extract(model, seed + 1)) for seed in range(TEST_MORE_ITER)} == {3}
    model.train()
    hidden = [extract(model, seed + 1) for seed in range(TRAIN_MORE_ITER)]
    assert {len(h) for h in hidden} == {3}
    # one in two layers is dropped in training, and a dropped layer repeats the one before; a kept
    # one does not
    repeats = [torch.equal(h[1], h[2]) for h in hidden]
    assert any(repeats)
    assert not all(repeats)


def test_s3prls_test_against_known_hidden_states_with_ours_as_the_known_ones(run: Path) -> None:
    from s3prl.util.pseudo_data import get_pseudo_wavs

    with torch.no_grad():
        theirs = extract(s3prl_upstream(run).eval())
        known = load_upstream(str(run)).extract(*get_pseudo_wavs(seed=0, padded=True)).layers
    for a, b in zip(theirs, known, strict=True):
        assert abs(a.shape[1] - b.shape[1]) <= MAX_LENGTH_DIFF
        both = min(a.shape[1], b.shape[1])
        assert torch.allclose(a[:, :both], b[:, :both], atol=ATOL)


@pytest.mark.parametrize(("n", "longest"), [(1, EXTRA_SHORT_SEC), (2, EXTRA_SHORT_SEC), (3, 1)])
def test_s3prls_test_of_forward_and_backward(run: Path, n: int, longest: float) -> None:
    with torch.autograd.set_detect_anomaly(True):
        model = s3prl_upstream(run)  # in train mode, as s3prl leaves it
        hidden = extract(model, n=n, min_secs=EXTRA_SHORT_SEC, max_secs=longest)
        sum(h.sum() for h in hidden).backward()  # type: ignore[union-attr]
    assert model.upstream.model.frontend.convs[0].grad is not None


@pytest.mark.parametrize("layers", [None, [0, 2]])
@pytest.mark.parametrize("normalize", [False, True])
def test_s3prls_test_of_the_featurizer(
    run: Path, layers: list[int] | None, *, normalize: bool
) -> None:
    from s3prl.nn import Featurizer
    from s3prl.util.pseudo_data import get_pseudo_wavs

    model = s3prl_upstream(run)
    featurizer = Featurizer(model, layer_selections=layers, normalize=normalize)
    hidden, frames = featurizer(*model(*get_pseudo_wavs(padded=True)))
    assert isinstance(hidden, torch.FloatTensor)
    assert isinstance(frames, torch.LongTensor)
    assert (featurizer.output_size, featurizer.downsample_rate) == (32, 320)
    assert (model.hidden_sizes, model.downsample_rates) == ([32] * 3, [320] * 3)


def test_hub_torch_hub_and_this_toolkit_give_the_same_hidden_states(run: Path) -> None:
    torch.manual_seed(0)
    waves, lengths = torch.randn(2, 8_000) * 0.1, torch.tensor([8_000, 8_000])
    hub: Any = torch.hub.load(str(ROOT), "mt4ssl_local", ckpt=str(run), source="local").eval()
    with torch.no_grad():
        ways = [s3prl_upstream(run).eval()(waves, lengths)[0], hub(list(waves))["hidden_states"]]
    ours = load_upstream(str(run)).extract(waves, lengths).layers
    for hidden in ways:
        for a, b in zip(hidden, ours, strict=True):
            torch.testing.assert_close(a[:, :24], b, atol=1e-5, rtol=0)


def test_torch_hub_loads_from_a_checkout_that_is_not_installed(run: Path) -> None:
    code = (
        "import sys, importlib.util, torch; sys.meta_path = [f for f in sys.meta_path if "
        "'editable' not in repr(f)]; assert importlib.util.find_spec('mt4ssl_bench') is None; "
        f"m = torch.hub.load({str(ROOT)!r}, 'mt4ssl_local', ckpt={str(run)!r}, source='local'); "
        "print(len(m([torch.zeros(800)])['hidden_states']), "
        "m.get_downsample_rates('hidden_states'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=run, env={}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["3", "320"]


def test_registering_twice_replaces_nothing_and_is_undone_by_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import s3prl.hub as hub

    register()
    monkeypatch.setattr(hub, "mt4ssl_url", "somebody else's")
    register()
    assert hub.mt4ssl_url == "somebody else's"
    assert {"mt4ssl", "mt4ssl_local", "mt4ssl_custom"} <= set(hub.options())


def test_the_default_entry_is_the_model_in_this_package() -> None:
    assert expert.mt4ssl().state_dict().keys()
    with pytest.raises(UpstreamError, match="ckpt is missing"):
        expert.mt4ssl_local()


@pytest.fixture
def server(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A web server that holds the checkpoint and a page that is none.

    Torch.hub's folder is a fresh one.
    """
    (run / "page.pt").write_text("<html>log in first</html>", encoding="utf-8")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    with served(run) as address:
        yield address


def test_a_url_is_downloaded_once_and_only_whole_checkpoints_are_kept(
    server: str, run: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"page\.pt: truncated, damaged or not"):
        expert.mt4ssl_url(f"{server}/page.pt")
    assert not list((tmp_path / "hub" / "checkpoints").iterdir())
    with pytest.raises(UpstreamError, match=r"404.*mt4ssl_local"):
        expert.mt4ssl_url(f"{server}/none.pt")

    weights = expert.mt4ssl_url(f"{server}/checkpoint.pt").state_dict()
    (kept,) = (tmp_path / "hub" / "checkpoints").iterdir()
    made = kept.stat().st_mtime_ns
    again = expert.mt4ssl_custom(f"{server}/checkpoint.pt")
    assert kept.stat().st_mtime_ns == made
    for name, value in again.state_dict().items():
        assert value.equal(weights[name])
    local = load_upstream(str(run))
    assert load_upstream(f"mt4ssl_url:{server}/checkpoint.pt").fingerprint == local.fingerprint
    expert.mt4ssl_url(f"{server}/checkpoint.pt", refresh=True)
    assert kept.stat().st_mtime_ns != made


def test_a_safetensors_file_is_taken_from_a_url_too(server: str, run: Path) -> None:
    to_s3prl(run, run / "first.safetensors")
    upstream = load_upstream(f"mt4ssl_url:{server}/first.safetensors")
    assert upstream.fingerprint == load_upstream(str(run)).fingerprint


def test_processes_that_want_one_url_at_once_download_it_once(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched, download = [], expert.download_file

    def slow(url: str, target: Path) -> None:
        fetched.append(target)
        time.sleep(0.3)  # the other one arrives meanwhile
        download(url, target)

    monkeypatch.setattr(expert, "download_file", slow)
    with ThreadPoolExecutor(2) as pool:  # locks of threads exclude each other as processes' do
        first, second = pool.map(expert.download, [f"{server}/checkpoint.pt"] * 2)
    assert first == second
    assert len(fetched) == 1


def test_without_a_network_the_file_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mt4ssl_bench.data.download.PAUSE", 0.0)
    with pytest.raises(
        UpstreamError, match=r"127\.0\.0\.1:9/x\.pt: could not be downloaded .* path instead"
    ):
        expert.mt4ssl_url("http://127.0.0.1:9/x.pt")


def test_s3prls_failed_download_names_entry_error_and_s3prls_cache_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr("s3prl.util.download._download_dir", tmp_path)
    with pytest.raises(
        UpstreamError, match=r"^upstream 'hubert': s3prl could not .*Error: .*hubert_local"
    ) as e:
        load_upstream("hubert")
    assert f"downloads are kept in {tmp_path};" in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("hubert_local", "write hubert_local:<path"),
        ("hubert_local:none.pt", "no such file 'none.pt'"),
        ("hf_hubert_custom", "needs a checkpoint"),
        ("mt4ssl_local:none.pt", "no such checkpoint"),
        ("stft_mag", "write stft_mag:<path"),
        (
            "wavlm_base_plus:own.pt",
            "has weights of its own and takes no 'own.pt'; did you mean wavlm_local",
        ),
        ("fbank:own.pt", "takes no 'own.pt'"),
        ("mt4ssl_locl:own.pt", "did you mean mt4ssl_local"),
        ("Path", "unknown upstream 'Path'"),
    ],
)
def test_hub_names_without_their_file_say_what_to_write(name: str, says: str) -> None:
    with pytest.raises(BenchError, match=says):
        load_upstream(name)


def test_bases_without_weights_are_known_by_their_code_and_settings(tmp_path: Path) -> None:
    import s3prl.upstream.log_stft as theirs

    settings = (Path(theirs.__file__).parent / "log_stft_mag.yaml").read_text(encoding="utf-8")
    for name, text in (
        ("a", settings),
        ("b", settings),
        ("c", settings.replace("hop_length: 320", "hop_length: 160")),
    ):
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    a, b, c = (load_upstream(f"stft_mag:{tmp_path}/{name}.yaml") for name in "abc")
    assert a.fingerprint == b.fingerprint == load_upstream("stft_mag:log_stft_mag.yaml").fingerprint
    assert a.fingerprint != c.fingerprint
    assert (a.stride, c.stride) == (320, 160)


@pytest.mark.parametrize(
    "name", ["fbank", "mfcc", "spectrogram", "stft_mag:log_stft_mag.yaml", "mt4ssl_hub"]
)
def test_an_utterances_frames_are_its_own_in_any_batch(name: str, run: Path) -> None:
    register()
    model = S3PRLUpstream(
        f"mt4ssl_local:{run}/checkpoint.pt" if name == "mt4ssl_hub" else name, "cpu"
    )
    lengths = torch.tensor([16_000, 5_079, 5_080, 5_039, 5_040, 801])
    waves = torch.randn(6, 16_000) * (torch.arange(16_000) < lengths[:, None])
    together = model.extract(waves, lengths)
    for b, n in enumerate(lengths.tolist()):
        assert (
            together.lengths[b]
            == model.extract(waves[b : b + 1, :n], lengths[b : b + 1]).layers.shape[2]
        )


def test_replicas_for_several_devices_compute_the_same(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DataParallel's own replication, with copies on the CPU in place of copies on other
    devices.
    """
    module = sys.modules["torch.nn.parallel.replicate"]

    def copies(
        tensors: list[Tensor],
        devices: list[int],
        detach: bool = False,  # noqa: FBT001, FBT002 - torch's
    ) -> list[list[Tensor]]:
        return [[t.detach().clone() if detach else t.clone() for t in tensors] for _ in devices]

    monkeypatch.setattr(module, "_broadcast_coalesced_reshape", copies)
    whole = UpstreamExpert(str(run)).eval()
    torch.manual_seed(0)
    waves = [torch.randn(4_000), torch.randn(6_000)]
    with torch.no_grad():
        wanted = whole(waves)["hidden_states"]
        for replica in module.replicate(whole, [0, 1]):  # type: ignore[attr-defined]
            found = replica(waves)["hidden_states"]
            for a, b in zip(found, wanted, strict=True):
                assert a.equal(b)


def test_long_audio_is_encoded_in_windows_that_give_the_same_frames(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = UpstreamExpert(str(run)).eval()
    torch.manual_seed(0)
    waves = [torch.randn(48_123), torch.randn(9_000)]
    with torch.no_grad():
        whole = model(waves)["hidden_states"]
        monkeypatch.setattr(encoder_adapter, "WINDOW", 60)
        windows = model(waves)["hidden_states"]
    assert [h.shape for h in windows] == [h.shape for h in whole] == [(2, 150, 32)] * 3
    # three windows of 50 frames; the positional convolutions see 18 frames to each side
    torch.testing.assert_close(windows[0][0, 18:32], whole[0][0, 18:32], atol=1e-5, rtol=0)
    torch.testing.assert_close(windows[0][0, 68:82], whole[0][0, 68:82], atol=1e-5, rtol=0)
    for a, b in zip(
        windows, whole, strict=True
    ):  # the short one lies in one window, and is what it was
        torch.testing.assert_close(a[1, :27], b[1, :27], atol=1e-5, rtol=0)


def test_a_wide_encoder_is_compiled_on_a_gpu_while_it_computes_in_bf16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled: list[Callable[..., Any]] = []
    for module in (kernels, encoder):
        monkeypatch.setattr(module, "compiled", lambda f: compiled.append(f) or f)
    upstream = load_upstream(f"random:{TOY}")
    monkeypatch.setattr(encoder_adapter, "pays", lambda config, device: True)  # noqa: ARG005
    waves, lengths = torch.randn(2, 9_000), torch.tensor([9_000, 7_000])
    plain = upstream.extract(waves, lengths).layers
    assert not compiled
    with torch.autocast("cpu", torch.bfloat16):
        half = upstream.extract(waves, lengths).layers
    assert set(compiled) == {encoder.EncoderLayer.forward, kernels.norm_gelu}
    torch.testing.assert_close(half.float(), plain, atol=0.1, rtol=0)
    compiled.clear()
    assert upstream.extract(waves, lengths).layers.equal(plain)
    assert not compiled, "fp32 is never compiled"


@pytest.mark.parametrize(
    ("waves", "says"),
    [
        ([], "no waveforms"),
        ([torch.zeros(2, 16_000)], r"waveform 0: shape \(2, 16000\); expected one channel"),
        (
            [torch.zeros(800), torch.zeros(800, dtype=torch.int16)],
            "waveform 1: int16 samples; .*32768",
        ),
        ([torch.full((800,), torch.nan)], "waveform 0: holds NaN"),
        ([torch.tensor([torch.inf, -torch.inf]).repeat(400)], "waveform 0: holds NaN"),
        ([torch.zeros(399)], "waveform 0: 399 samples; at least 400"),
        ([[0.0] * 800], "waveform 0: a list; expected a tensor"),
    ],
)
def test_waveforms_that_cannot_be_used_are_named(run: Path, waves: list[Any], says: str) -> None:
    with pytest.raises(UpstreamError, match=says):
        UpstreamExpert(str(run))(waves)


def test_another_sample_rate_is_refused_where_it_is_stated(run: Path) -> None:
    with pytest.raises(UpstreamError, match="8000 Hz: expected 16000"):
        UpstreamExpert(str(run))([torch.zeros(800)], sample_rate=8_000)


@pytest.mark.long
def test_s3prls_bases_our_models_and_a_users_class_stand_on_one_leaderboard(
    corpus: Corpus, run: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(USER_CLASS, encoding="utf-8")
    tiny = transformers.HubertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    transformers.HubertModel(tiny).save_pretrained(tmp_path / "hubert")
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "hubert")
    names = [
        "fbank",
        "mel",
        "mfcc",
        "stft_mag:log_stft_mag.yaml",
        f"random:{TOY}",
        str(run),
        f"{tmp_path}/mine.py:Energy",
        f"hf:{tmp_path}/hubert",
    ]
    task = str(Path(TOY).parent / "toy_phoneme.yaml")
    done = evaluate([*names, "mell"], [task], corpus.root, out=tmp_path / "results", device="cpu")
    assert [result.upstream["stride"] for result in done.results] == [
        160,
        160,
        160,
        320,
        320,
        320,
        320,
        320,
    ]
    assert len({result.upstream["fingerprint"] for result in done.results}) == 8
    assert [failure.partition("; ")[2] for failure in done.failures] == ["did you mean mel?"]
    shown = Leaderboard.from_folder(tmp_path / "results").to_markdown()
    for name in (
        "fbank",
        "mel",
        "mfcc",
        "stft_mag:log_stft_mag.yaml",
        "random:",
        "toy",
        "mine:Energy",
        "hf:hubert",
    ):
        assert f"| {name}" in shown
