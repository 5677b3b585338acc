"""Our checkpoints as upstreams, here and inside the real s3prl."""

from pathlib import Path

import pytest
import torch

from builders import TOY, waves, write_run
from mt4ssl_bench import checkpoint
from mt4ssl_bench.config import load, to_dict
from mt4ssl_bench.device import pick_device
from mt4ssl_bench.encoders.load import load_upstream
from mt4ssl_bench.errors import CheckpointError, ConfigError, UpstreamError
from mt4ssl_bench.upstream.checkpoints.checkpoint_file import KIND, read_student
from mt4ssl_bench.upstream.config import PretrainConfig
from mt4ssl_bench.upstream.expert import UpstreamExpert, register
from mt4ssl_bench.upstream.model import MT4SSL

LENGTHS = (8_000, 5_000)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "toy", seed=3)


def test_a_run_folder_and_its_checkpoint_are_the_same_upstream(run: Path) -> None:
    a, b = load_upstream(str(run)), load_upstream(str(run / "checkpoint.pt"))
    assert a.fingerprint == b.fingerprint
    assert (a.name, a.num_layers, a.dim, a.stride) == ("toy", 3, 32, 320)
    features = a.extract(*waves(*LENGTHS))
    assert features.layers.shape == (3, 2, 24, 32)
    assert features.lengths.tolist() == [24, 15]
    assert not features.layers.requires_grad


def test_batching_does_not_change_an_utterance(run: Path) -> None:
    model, (x, lengths) = load_upstream(str(run)), waves(*LENGTHS)
    together, alone = model.extract(x, lengths), model.extract(x[1:, :5_000], lengths[1:])
    torch.testing.assert_close(together.layers[:, 1:, :15], alone.layers, atol=1e-5, rtol=0)


def test_the_fingerprint_is_of_the_weights(run: Path, tmp_path: Path) -> None:
    payload = checkpoint.load(run / "checkpoint.pt")
    payload["model"] = {**payload["model"], "mask_emb": payload["model"]["mask_emb"] + 1}
    checkpoint.save(
        {k: v for k, v in payload.items() if k != "format"}, tmp_path / "toy" / "checkpoint.pt"
    )
    assert load_upstream(str(tmp_path / "toy")).fingerprint != load_upstream(str(run)).fingerprint


def test_an_untrained_model_is_the_same_each_time_and_leaves_the_generator_alone() -> None:
    before = torch.get_rng_state()
    a, b = load_upstream(f"random:{TOY}"), load_upstream(f"random:{TOY}")
    assert a.fingerprint == b.fingerprint
    assert before.equal(torch.get_rng_state())


@pytest.mark.parametrize("what", ["truncated", "foreign", "config"])
def test_what_is_not_our_checkpoint_is_refused(run: Path, tmp_path: Path, what: str) -> None:
    file = tmp_path / "bad.pt"
    if what == "truncated":
        file.write_bytes((run / "checkpoint.pt").read_bytes()[:5_000])
    elif what == "foreign":
        torch.save({"model": {}}, file)
    else:
        checkpoint.save({"kind": "something else"}, file)
    with pytest.raises(CheckpointError, match=r"bad\.pt"):
        load_upstream(str(file))


def test_names_that_lead_nowhere_say_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_upstream(str(tmp_path))
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_upstream("runs/none")
    with pytest.raises(ConfigError, match="did you mean mt4ssl_tiny"):
        load_upstream("random:mt4ssl_tinny")
    with pytest.raises(UpstreamError, match=r"did you mean .*fbank"):
        load_upstream("fbnak")
    with pytest.raises(UpstreamError, match="--device"):
        pick_device("quantum")


def test_audio_shorter_than_one_frame_is_refused(run: Path) -> None:
    with pytest.raises(UpstreamError, match="399 samples"):
        load_upstream(str(run)).extract(torch.zeros(1, 399), torch.tensor([399]))


def test_s3prls_filter_banks_come_through_our_protocol() -> None:
    fbank = load_upstream("fbank")
    assert (fbank.num_layers, fbank.dim, fbank.stride, fbank.parameters) == (1, 240, 160, 0)
    features = fbank.extract(*waves(*LENGTHS))
    assert features.lengths.tolist() == [
        48,
        29,
    ]  # 25 ms windows every 10 ms: 1 + (8000 - 400) // 160, and of 5000
    assert fbank.fingerprint != load_upstream("mel").fingerprint


def test_s3prl_runs_our_checkpoint_with_equal_hidden_states(run: Path) -> None:
    register()
    register()
    from s3prl.nn import S3PRLUpstream

    theirs = S3PRLUpstream("mt4ssl_local", str(run / "checkpoint.pt")).eval()
    x, lengths = waves(*LENGTHS)
    with torch.no_grad():
        hidden, frames = theirs(x, lengths)
    ours = load_upstream(str(run)).extract(x, lengths)
    assert len(hidden) == 3
    assert theirs.downsample_rates == [320] * 3
    for a, b, n in zip(hidden, ours.layers, frames, strict=True):
        torch.testing.assert_close(a[0, :24], b[0, :24], atol=1e-5, rtol=0)
        assert int(n[0]) in {24, 25}  # s3prl rounds n / 320 up


def test_a_hub_name_with_a_checkpoint_goes_to_s3prl(run: Path) -> None:
    register()
    through_hub = load_upstream(f"mt4ssl_local:{run / 'checkpoint.pt'}")
    x, lengths = waves(*LENGTHS)
    ours = load_upstream(str(run)).extract(x, lengths)
    torch.testing.assert_close(
        through_hub.extract(x, lengths).layers[:, 0], ours.layers[:, 0], atol=1e-5, rtol=0
    )


def test_gradients_reach_the_weights_in_train_mode_from_50_ms_up(run: Path) -> None:
    expert = UpstreamExpert(str(run)).train()
    hidden = expert([torch.randn(800), torch.randn(2_000)])["hidden_states"]
    assert [tuple(h.shape) for h in hidden] == [(2, 6, 32)] * 3
    torch.stack(hidden).square().mean().backward()
    assert expert.model.frontend.convs[0].grad is not None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("lost", r"1 weights missing: encoder\.layers\.0\.\S+\)"),
        ("shape", r"1 weights of another shape: encoder\.layers\.0\.\S+ is \(1,\), not \("),
        ("extra", r"1 weights unknown: encoder\.layers\.99\.bias\)"),
    ],
)
def test_a_weight_that_does_not_fit_is_named(change: str, named: str, tmp_path: Path) -> None:
    model = MT4SSL(load(PretrainConfig, TOY))
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith("extractors.")}
    first = next(name for name in weights if name.startswith("encoder.layers.0."))
    if change == "lost":
        del weights[first]
    elif change == "shape":
        weights[first] = torch.zeros(1)
    else:
        weights["encoder.layers.99.bias"] = torch.zeros(1)
    payload = {"kind": KIND, "config": to_dict(model.config), "model": weights}
    checkpoint.save(payload, tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError, match=f"do not fit its config \\({named}"):
        read_student(tmp_path)
