"""MT4SSL as a whole: which extractors it has, what clones mean, and where gradients may flow."""

from pathlib import Path

import pytest
import torch

from builders import toy_batch, toy_config, toy_masks, toy_model
from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.upstream import encoder, kernels, targets
from mt4ssl_bench.upstream.config import EncoderConfig
from mt4ssl_bench.upstream.encoder import Encoder, compile_layers, lacking, pays, take
from mt4ssl_bench.upstream.model import MT4SSL
from mt4ssl_bench.upstream.pretrain import build_model


def build(*overrides: str) -> MT4SSL:
    return toy_model("encoder.dropout=0", *overrides)


def test_either_extractor_can_be_left_out() -> None:
    assert set(dict(build().named_extractors())) == {"offline", "online"}
    offline, online = build("targets.online.weight=0"), build("targets.offline.weight=0")
    assert set(offline(*toy_batch()).sums) == {"offline"}
    assert set(online(*toy_batch()).sums) == {"online"}
    assert not any("teacher" in name for name, _ in offline.named_parameters())


def test_clones_sum_the_losses_of_their_masks() -> None:
    model = build()
    together = model(*toy_batch(*toy_masks(3)))
    apart = [model(*toy_batch(mask)) for mask in toy_masks(3)]
    assert together.masked == sum(part.masked for part in apart)
    for name in together.sums:
        expected = sum(part.sums[name].item() for part in apart)
        assert abs(together.sums[name].item() - expected) < 1e-4 * expected


def test_the_total_weighs_the_losses() -> None:
    model = build("targets.offline.weight=2", "targets.online.weight=0.5")
    losses = model(*toy_batch())
    expected = 2 * losses.sums["offline"] + 0.5 * losses.sums["online"]
    torch.testing.assert_close(model.total(losses), expected)


def test_gradients_reach_the_student_and_never_the_teacher() -> None:
    model = build()
    model.total(model(*toy_batch())).backward()
    for name, p in model.named_parameters():
        assert (p.grad is None) == ("teacher" in name), name


def test_an_utterance_gives_the_same_hidden_states_alone_and_in_a_batch() -> None:
    model = build().eval()
    waves, lengths = toy_batch()[0], torch.tensor([16_000, 9_700])
    batched, frames = model.hidden_states(waves, lengths)
    alone, _ = model.hidden_states(waves[1:, :9_700], lengths[1:])
    assert frames.tolist() == [49, 30]
    for a, b in zip(batched, alone, strict=True):
        torch.testing.assert_close(a[1:, :30], b, atol=1e-5, rtol=0)


def test_layer_drop_keeps_the_number_of_hidden_states() -> None:
    model = build("encoder.layer_drop=0.9").train()
    waves, lengths = toy_batch()[0], torch.tensor([16_000, 9_700])
    assert {len(model.hidden_states(waves, lengths)[0]) for _ in range(5)} == {3}


def test_the_teacher_stays_in_evaluation_mode() -> None:
    model = build("encoder.dropout=0.5").train()
    online = dict(model.named_extractors())["online"]
    frames = torch.randn(1, 20, 32)
    assert online.targets(None, frames, None).equal(online.targets(None, frames, None))


def test_the_last_layer_at_some_frames_equals_those_frames_of_the_whole() -> None:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(layers=2, dim=16, ffn=32, heads=2, pos_depth=1)).eval().double()
    x = torch.randn(2, 20, 16, dtype=torch.float64)
    padding = torch.arange(20)[None] >= torch.tensor([20, 14])[:, None]
    at = torch.tensor([[0, 7, 19], [2, 3, 13]])
    whole, some = encoder(x, padding).hidden, encoder(x, padding, at).hidden
    assert torch.equal(whole[0], some[0])
    torch.testing.assert_close(some[1], take(whole[1], at), atol=1e-12, rtol=0)


def test_the_parts_for_a_gpu_give_the_losses_and_gradients_of_those_for_a_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (kernels, encoder, targets):
        monkeypatch.setattr(module, "compiled", lambda function: function)
    model, batch = build().train().double(), toy_batch(*toy_masks(2))
    found = []
    for fused in (False, True):
        compile_layers(model, fused=fused)
        model.zero_grad()
        total = model.total(model(batch[0].double(), *batch[1:]))
        total.backward()
        found.append([total.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert sum(getattr(module, "fused", False) for module in model.modules()) == 4
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("device", "dim", "expected"),
    [("cuda:1", 768, True), ("cuda", 448, False), ("cpu", 768, False)],
)
def test_wide_encoders_are_compiled_on_gpus(
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    dim: int,
    expected: bool,  # noqa: FBT001
) -> None:
    monkeypatch.setattr(encoder, "_compiles", lambda: True)
    assert pays(EncoderConfig(dim=dim, heads=8), device) is expected


def test_without_a_compiler_an_encoder_runs_as_it_is_and_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)  # noqa: ARG005
    monkeypatch.delenv("CC", raising=False)
    encoder._compiles.cache_clear()
    assert not any(pays(EncoderConfig(), "cuda") for _ in range(3))
    (line,) = caplog.messages
    assert line.startswith("the encoder is not compiled, which is slower: ")
    assert line.endswith("torch.compile() needs a C compiler (install gcc, or set CC)")
    encoder._compiles.cache_clear()
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(
        ConfigError, match=r"^fit\.compile=true: torch\.compile\(\) needs a C\+\+ c"
    ):
        build_model(toy_config("fit.compile=true"), "cpu")


def test_a_compiler_without_pythons_headers_is_not_enough(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CC", "gcc")
    monkeypatch.setattr("sysconfig.get_path", lambda *_: str(tmp_path))
    assert lacking("cuda") == "Python's headers (install python3-dev)"
    (tmp_path / "Python.h").touch()
    assert not lacking("cuda")
