"""Enhancement and separation against s3prl's own modules, librosa, torchmetrics and double loops."""

import contextlib
import io
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from mt4ssl_bench.config import check_all_bounds
from mt4ssl_bench.downstream.config import MaskHeadConfig
from mt4ssl_bench.downstream.heads import signal_measures
from mt4ssl_bench.downstream.heads.masks import MaskHead, MaskTask
from mt4ssl_bench.downstream.heads.spectra import (
    BINS,
    SIZE,
    frame_count,
    signals_of,
    spectrum,
    without_impulse,
)
from mt4ssl_bench.downstream.plan import load_config
from mt4ssl_bench.downstream.tasks.enhancement import Enhancement
from mt4ssl_bench.downstream.tasks.separation import Separation
from mt4ssl_bench.errors import ConfigError, CorpusError, UpstreamError
from mt4ssl_bench.training.optim import build_optimizer

LAYERS, DIM, HOP = 3, 12, 320
SAMPLES = (4700, 3200, 2239)  # 15, 11 and 7 frames; 2239 = 6 * 320 + 319: beyond the last frame
CONFIG = MaskHeadConfig(hidden=10, lstm_layers=3)


@pytest.fixture(scope="module")
def s3prl() -> Iterator[Any]:
    """s3prl's separation, with stand-ins for what it imports and these tests do not call."""
    absent = {"asteroid.metrics": "get_metrics", "asteroid.losses": "PITLossWrapper"}
    with pytest.MonkeyPatch.context() as patch:
        for name, attribute in absent.items():
            module = ModuleType(name)
            setattr(module, attribute, None)
            patch.setitem(sys.modules, name, module)
        patch.setitem(sys.modules, "asteroid", ModuleType("asteroid"))
        patch.setitem(sys.modules, "h5py", ModuleType("h5py"))
        with contextlib.redirect_stdout(io.StringIO()):
            pytest.importorskip("s3prl")
            from s3prl.downstream.separation_stft import expert, loss, model
        patch.setattr(loss, "device", torch.device("cpu"))
        yield SimpleNamespace(expert=expert, MSELoss=loss.MSELoss, SepRNN=model.SepRNN)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Signals(MaskTask):
    """A separation of drawn signals: a mixture is the sum of its sources and some noise."""

    reads = ("other:s1", "other:s2")

    def _signals(self, cut: Any) -> np.ndarray:
        sources = noise(2, cut.samples, seed=cut.samples)
        mixture = sources.sum(0, keepdim=True) + 0.3 * noise(1, cut.samples, seed=1)
        return torch.cat([mixture, sources]).numpy()


class CleanSignals(Signals):
    """An enhancement."""

    reads = ("other:clean",)

    def _signals(self, cut: Any) -> np.ndarray:
        return super()._signals(cut)[:2]


FILE = SimpleNamespace(sources=[SimpleNamespace(source="a.wav")], sampling_rate=16_000)
CUTS: Any = [
    SimpleNamespace(id=f"u{n}", samples=n, start=0.0, duration=n / 16_000, recording=FILE)
    for n in SAMPLES
]
KINDS = pytest.mark.parametrize("kind", [CleanSignals, Signals], ids=["enhance", "separate"])


def task_of(kind: type[Signals]) -> Signals:
    name = "separation" if kind is Signals else "enhancement"
    return kind(load_config(name))  # type: ignore[arg-type]


@KINDS
def test_the_head_is_their_seprnn(s3prl: Any, kind: type[Signals]) -> None:
    torch.manual_seed(0)
    sources = len(task_of(kind).sources)
    ours = MaskHead(LAYERS, DIM, BINS * sources, CONFIG).eval()
    theirs = s3prl.SepRNN(
        DIM, BINS, num_spks=sources, num_layers=3, hidden_size=10, dropout=0.5
    ).eval()
    state = theirs.rnn.state_dict()
    for layer, (ahead, back) in enumerate(zip(ours.forwards, ours.backwards, strict=True)):
        for key in ahead.state_dict():
            name = key.replace("_l0", f"_l{layer}")
            ahead.state_dict()[key].copy_(state[name])
            back.state_dict()[key].copy_(state[f"{name}_reverse"])
    ours.output.weight.data = torch.cat([linear.weight.data for linear in theirs.linear])
    ours.output.bias.data = torch.cat([linear.bias.data for linear in theirs.linear])
    ours.sum.scores.data = torch.linspace(-1, 2, LAYERS)
    lengths = torch.tensor([17, 23, 9])  # not sorted, as batches come
    features = torch.randn(LAYERS, 3, 23, DIM)
    found, counts = ours(features, lengths)
    assert counts.equal(lengths)
    for row, length in enumerate(lengths.tolist()):
        packed = torch.nn.utils.rnn.pack_sequence([ours.sum(features)[row, :length]])
        masks = torch.cat(theirs(packed), dim=-1)[0]
        torch.testing.assert_close(found[row, :length], masks, atol=1e-5, rtol=1e-5)
    assert (found >= 0).all()
    assert (found == 0).any()


def test_dropout_is_where_theirs_is(s3prl: Any) -> None:
    ours = MaskHead(LAYERS, DIM, BINS, replace(CONFIG, lstm_layers=1, dropout=1.0))
    theirs = s3prl.SepRNN(DIM, BINS, num_spks=1, num_layers=1, hidden_size=10, dropout=1.0)
    theirs.linear[0].bias.data = ours.output.bias.data
    x = torch.randn(LAYERS, 1, 7, DIM)
    packed = torch.nn.utils.rnn.pack_sequence([x[0, 0]])
    torch.testing.assert_close(ours(x, torch.tensor([7]))[0], theirs(packed)[0])


@KINDS
def test_the_loss_is_their_mse_loss_and_a_double_loop(s3prl: Any, kind: type[Signals]) -> None:
    task = task_of(kind)
    count = len(task.sources)
    targets = [task.target(cut) for cut in CUTS]
    lengths = torch.tensor([len(target) for target in targets])
    assert lengths.tolist() == [15, 11, 7]
    masks = torch.rand(3, 15, count * BINS, generator=torch.Generator().manual_seed(2))
    found = task.loss(masks, lengths, targets)

    spectra = [spectrum(torch.from_numpy(task._signals(cut)), HOP) for cut in CUTS]
    padded = torch.nn.utils.rnn.pad_sequence([x.movedim(0, 1) for x in spectra], batch_first=True)
    padded = padded.movedim(2, 0)  # (1 + S, B, T, F)
    parts = [{"magnitude": part.abs(), "phase": part.angle()} for part in padded]
    theirs = s3prl.MSELoss(count, "NPSM").compute_loss(
        list(masks.unflatten(-1, (count, BINS)).unbind(2)),
        lengths,
        parts[0],
        {key: [part[key] for part in parts[1:]] for key in ("magnitude", "phase")},
    )
    torch.testing.assert_close(found.mean(), theirs, atol=1e-5, rtol=1e-5)

    for row, (values, length) in enumerate(zip(spectra, lengths.tolist(), strict=True)):
        mixture, own = values[0], masks[row].unflatten(-1, (count, BINS))
        orders = []
        for order in permutations(range(count)):
            total = 0.0
            for mask, number in enumerate(order):
                source = values[1 + number]
                for t in range(length):
                    cosine = torch.cos(mixture[t].angle() - source[t].angle()).clamp(min=0)
                    gap = own[t, mask] * mixture[t].abs() - source[t].abs() * cosine
                    total += float((gap**2).sum())
            orders.append(total / length / count)
        assert float(found[row]) == pytest.approx(min(orders), rel=1e-4)
    assert count == 1 or orders[0] != pytest.approx(orders[1], rel=1e-3)


def test_padding_and_other_rows_do_not_change_a_loss() -> None:
    task = task_of(Signals)
    targets = [task.target(cut) for cut in CUTS]
    lengths = torch.tensor([len(target) for target in targets])
    masks = torch.rand(3, 15, 2 * BINS)
    together = task.loss(masks, lengths, targets)
    for row, length in enumerate(lengths.tolist()):
        alone = task.loss(masks[row : row + 1, :length], lengths[row : row + 1], [targets[row]])
        torch.testing.assert_close(together[row], alone[0])
    swapped = masks.unflatten(-1, (2, BINS)).flip(2).flatten(2)
    torch.testing.assert_close(task.loss(swapped, lengths, targets), together)


@pytest.mark.parametrize("samples", [*SAMPLES, 100, 16_000])
def test_spectra_and_signals_are_librosas(samples: int) -> None:
    librosa = pytest.importorskip("librosa")
    signal = noise(samples).numpy()
    options = {"hop_length": HOP, "win_length": SIZE, "window": "hann", "center": True}
    theirs = librosa.stft(signal, n_fft=SIZE, **options)
    ours = spectrum(torch.from_numpy(signal), HOP)
    assert len(ours) == frame_count(samples, HOP)
    np.testing.assert_allclose(ours.T.numpy(), theirs, atol=1e-5)
    mask = torch.rand(ours.shape, generator=torch.Generator().manual_seed(3))
    expected = librosa.istft((mask * ours).T.numpy(), length=samples, **options)
    found = signals_of((mask * ours)[None], HOP, samples)[0].numpy()
    assert len(found) == samples
    # of 2239 samples, the last that a frame reaches is divided by 1e-9, the window's square
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    repaired = without_impulse(found)
    np.testing.assert_allclose(repaired, without_impulse(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("spikes", "zeros"),
    [((), 0), ((4990,), 0), ((4700, 4800), 0), ((4600,), 300), ((4990,), 2500), ((100,), 0)],
)
def test_impulses_at_the_end_are_removed_as_theirs(
    s3prl: Any, spikes: tuple[int, ...], zeros: int
) -> None:
    signal = noise(5000).numpy()
    signal[list(spikes)] = 3.0
    signal[len(signal) - zeros :] = 0
    with contextlib.redirect_stdout(io.StringIO()):
        expected = s3prl.expert.postprocess(signal)
    np.testing.assert_array_equal(without_impulse(signal), expected)
    short = signal[-400:]
    np.testing.assert_array_equal(without_impulse(short), short)
    silent = np.zeros(5000, np.float32)
    np.testing.assert_array_equal(without_impulse(silent), silent)


def test_si_sdr_and_its_best_order_are_torchmetrics() -> None:
    audio = pytest.importorskip("torchmetrics.functional.audio")
    for seed in range(20):
        references = noise(2, 3000, seed=seed) + 0.05  # with means
        mix = torch.tensor([[0.2, 1.0], [1.0, 0.3]] if seed % 2 else [[1.0, 0.4], [0.1, 1.0]])
        estimates = mix @ references + 0.3 * noise(2, 3000, seed=100 + seed)
        ours = [
            [signal_measures.si_sdr(e.numpy(), r.numpy()) for e in estimates] for r in references
        ]
        expected = [
            [
                float(audio.scale_invariant_signal_distortion_ratio(e, r, zero_mean=True))
                for e in estimates
            ]
            for r in references
        ]
        np.testing.assert_allclose(ours, expected, atol=1e-3)
        best, order = audio.permutation_invariant_training(
            estimates[None],
            references[None],
            audio.scale_invariant_signal_distortion_ratio,
            zero_mean=True,
        )
        found = signal_measures.best_order(estimates.numpy(), references.numpy())
        assert list(found) == order[0].tolist()
        mixture = references.sum(0).numpy()
        values = signal_measures.measured(
            estimates.numpy(), references.numpy(), mixture, ("si_sdri",)
        )
        before = np.mean([signal_measures.si_sdr(mixture, r.numpy()) for r in references])
        assert values["si_sdri"] == pytest.approx(float(best) - before, abs=1e-3)


def test_masks_of_one_give_the_mixture_back_and_ideal_ones_separate() -> None:
    task = task_of(Signals)
    cut = CUTS[0]
    mixture, *sources = task._signals(cut)
    ones = torch.ones(15, 2 * BINS)
    estimates = task.estimates(mixture, ones)
    np.testing.assert_allclose(estimates[0], mixture, atol=1e-5)
    values = signal_measures.measured(estimates, np.stack(sources), mixture, ("si_sdri",))
    assert values["si_sdri"] == pytest.approx(0, abs=1e-3)
    magnitudes = task.target(cut)
    ideal = (magnitudes[:, 1:] / magnitudes[:, :1].clamp(min=1e-8)).flatten(1)
    (text,) = task.hypotheses([cut], ideal[None], torch.tensor([15]), test=False)
    assert json.loads(text)["si_sdri"] > 4
    assert list(json.loads(text)) == ["si_sdri"]


def test_frames_are_cut_or_padded_to_those_of_the_spectrum() -> None:
    task = task_of(Signals)
    x = torch.randn(LAYERS, 3, 18, DIM)
    x[:, 1, 10:], x[:, 2, 6:] = 0, 0
    features, lengths = task.match(CUTS, x, torch.tensor([18, 10, 6]))
    assert lengths.tolist() == [15, 11, 7]
    assert features.shape == (LAYERS, 3, 15, DIM)
    assert features.equal(x[:, :, :15])
    longer, _ = task.match(CUTS[:1], x[:, :1, :12], torch.tensor([12]))
    assert longer[:, :, 12:].equal(torch.zeros(LAYERS, 1, 3, DIM))
    with pytest.raises(UpstreamError, match="'u4700': 10 frames; expected 15 by the upstream's"):
        task.match(CUTS[:1], x, torch.tensor([10]))


def test_the_optimizer_is_their_adamw(s3prl: Any) -> None:
    from s3prl.optimizers import AdamW

    task = task_of(Signals)
    torch.manual_seed(0)
    start, gradients = torch.randn(50), torch.randn(6, 50)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    optimizers = [build_optimizer([{"params": [ours], "lr": 1e-2}], task.optim())]
    optimizers += [AdamW([theirs], lr=1e-2)]
    for gradient in gradients:
        for optimizer, weights in zip(optimizers, (ours, theirs), strict=True):
            weights.grad = gradient.clone()
            optimizer.step()
    # torch adds eps after the bias correction, s3prl before it
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.speech
def test_pesq_and_stoi_of_a_known_pair(speech: Path) -> None:
    pytest.importorskip("pesq")
    stoi = pytest.importorskip("pystoi").stoi
    reference, degraded = (
        soundfile.read(speech / "tasks" / "pesq_pair" / f"{name}.wav", dtype="float32")[0]
        for name in ("speech", "speech_bab_0dB")
    )
    values = signal_measures.measured(
        degraded[None], reference[None], degraded, ("pesq", "stoi", "pesq_mixture")
    )
    assert round(values["pesq"], 4) == 1.0832
    assert values["pesq_mixture"] == values["pesq"]
    assert values["stoi"] == pytest.approx(100 * stoi(reference, degraded, 16_000))
    assert 50 < values["stoi"] < 90
    silent = signal_measures.measured(0 * degraded[None], reference[None], degraded, ("pesq",))
    assert silent == {"pesq": 0.999}, "a system gains nothing by silence"


def test_what_cannot_be_measured_is_not_there() -> None:
    pytest.importorskip("pesq")
    pytest.importorskip("pystoi")
    every = ("si_sdri", "pesq", "stoi")
    signal = noise(1, 3000).numpy()  # too short for PESQ and STOI
    assert list(signal_measures.measured(signal, signal, signal[0], every)) == ["si_sdri"]
    assert "pesq" not in signal_measures.measured(0 * signal, signal, signal[0], every)
    silent = np.zeros((1, 16_000), np.float32)
    sound = noise(1, 16_000).numpy()
    assert signal_measures.measured(sound, silent, sound[0], every) == {}
    assert signal_measures.pesq(silent[0], silent[0]) is None
    assert signal_measures.measured(sound * np.nan, sound, sound[0], every) == {}
    both = np.concatenate([sound, silent])
    assert signal_measures.measured(both, both, sound[0], every) == {}
    worst = signal_measures.measured(silent, sound, sound[0], ("si_sdri",))
    assert math.isfinite(worst["si_sdri"])
    assert worst["si_sdri"] < -60


def test_the_recipes_have_the_numbers_of_superb() -> None:
    for task, every in (("enhancement", 1250), ("separation", 2000)):
        config = load_config(task)
        assert (config.steps, config.batch, config.accumulate, config.validate_every) == (
            150_000,
            8,
            1,
            every,
        )
        assert config.head == MaskHeadConfig()
        assert (config.head.hidden, config.head.lstm_layers, config.head.dropout) == (896, 3, 0.5)
        assert config.identity() == load_config(task, ["cache_hours=0"]).identity()
    assert Enhancement(load_config("enhancement")).metric.name == "pesq"  # type: ignore[arg-type]
    assert Separation(load_config("separation")).metric.name == "si_sdri"  # type: ignore[arg-type]


def test_measures_are_keys_the_first_of_which_selects(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config("enhancement", ["measures=si_sdri"])
    task = Enhancement(config)  # type: ignore[arg-type]
    assert (task.choice.name, [m.name for m in task.all_metrics]) == ("si_sdri", ["si_sdri"])
    full = Enhancement(load_config("enhancement"))  # type: ignore[arg-type]
    assert [metric.name for metric in full.all_metrics if metric.ranked] == [
        "pesq", "stoi", "si_sdri",
    ]  # fmt: skip
    for wrong in ("measures=sdr", "measures=pesq,pesq", "measures=[]"):
        with pytest.raises(ConfigError, match="expected one or several of si_sdri, pesq, stoi"):
            load_config("enhancement", [wrong])
    monkeypatch.setattr(signal_measures, "find_spec", lambda name: None if name == "pesq" else name)
    task.check()
    with pytest.raises(ConfigError, match=r"needs the extra \[enhance\], .*, or select by SI-SDR"):
        full.check()


def test_a_subclass_may_widen_a_bound_and_others_stay() -> None:
    check_all_bounds(MaskHeadConfig(projection=0))
    for wrong in ({"projection": -1}, {"hidden": 0}, {"dropout": 1.5}):
        with pytest.raises(ConfigError):
            check_all_bounds(MaskHeadConfig(**wrong))  # type: ignore[arg-type]


def test_a_decoded_signal_has_the_frames_of_its_header(monkeypatch: Any) -> None:
    lengths = {"": 4800, "s1": 4799, "s2": 3200}  # 3200: 0.1 s less
    monkeypatch.setattr(
        "mt4ssl_bench.downstream.heads.masks.audio.read",
        lambda _, name: np.ones(lengths[name], np.float32),
    )
    task = Separation(load_config("separation"))  # type: ignore[arg-type]
    recording = SimpleNamespace(sources=FILE.sources, sampling_rate=48_000)
    cut: Any = SimpleNamespace(id="u", start=0.0, duration=14_398 / 48_000, recording=recording)
    assert len(task.target(cut)) == 16
    _, found = task.match([cut], torch.zeros(LAYERS, 1, 15, DIM), torch.tensor([15]))
    assert found.tolist() == [16]
    assert [int(signal.sum()) for signal in task._signals(cut)] == list(lengths.values())
    lengths[""] = 4801
    assert task._signals(cut).shape == (3, 4800)
    lengths["s2"] = 3199
    with pytest.raises(CorpusError, match="'u': s2 has 3199 samples at 16 kHz; expected 4800"):
        task._signals(cut)
