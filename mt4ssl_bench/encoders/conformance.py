"""Conformance to the Upstream protocol, tested by running a model: expected and actual values.

Shapes: L hidden states, B batch, N samples, T frames, D dimension.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mt4ssl_bench.data.audio import RATE
from mt4ssl_bench.encoders.hidden_states import HUGE, LEAK, broken_layers, padding_leak
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import UpstreamError, with_class

FRAMES_OFF = 3  # frames by which a count may differ from samples / stride: s3prl's own tolerance
GROSS_LEAK = 0.1  # s3prl's older models let some padding in; more than this is a mistake
SHORTEST = 0.05  # seconds, s3prl's shortest audio
COUNTED = 10  # seconds of audio for which operations are counted


@dataclass(frozen=True)
class Check:
    """The outcome of a check: "ok", "warning", "failed", or "n/a" if it does not apply."""

    name: str
    outcome: str
    expected: str
    got: str


@dataclass(frozen=True)
class Cost:
    """Size and speed of an upstream."""

    parameters: int
    macs_per_second: float  # multiply-accumulates per second of audio, on COUNTED seconds
    audio_per_second: float  # seconds of audio per second of wall time
    device: str


def check(upstream: Upstream) -> Iterator[Check]:
    """Yield the outcome of every check, the basic ones first, up to the first that fails."""
    failed = False
    for name, run in CHECKS.items():
        if failed:
            return
        try:
            outcome = run(upstream)
        except Exception as error:  # noqa: BLE001 - somebody else's model raises what it likes
            outcome = Check(name, "failed", "no exception", with_class(error))
        failed = outcome.outcome == "failed"
        yield outcome


def require(upstream: Upstream) -> None:
    """Raise UpstreamError naming the first check that `upstream` fails."""
    for outcome in check(upstream):
        if outcome.outcome == "failed":
            raise UpstreamError(
                f"upstream '{upstream.name}' breaks the protocol: {outcome.name}: expected "
                f"{outcome.expected}, got {outcome.got}; mt4ssl-bench check-upstream shows every "
                "check"
            )


def cost(upstream: Upstream) -> Cost:
    """Measure size, operations, and speed on four utterances of five seconds."""
    waves, lengths = _noise(COUNTED)
    counter = FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.baddbmm_: _baddbmm_operations}
    )
    with counter, sdpa_kernel(SDPBackend.MATH):  # a CPU's fused attention is not counted
        device = upstream.extract(waves, lengths).layers.device
    waves, lengths = _noise(5, 5, 5, 5)
    upstream.extract(waves, lengths)
    began, runs = time.perf_counter(), 0
    while runs < 3 or time.perf_counter() - began < 1:
        upstream.extract(waves, lengths).layers.sum().item()  # .item() waits for an accelerator
        runs += 1
    speed = runs * int(lengths.sum()) / RATE / (time.perf_counter() - began)
    return Cost(upstream.parameters, counter.get_total_flops() / 2 / COUNTED, speed, str(device))


def _baddbmm_operations(_: object, a: torch.Size, b: torch.Size, **__: object) -> int:
    """Return the operations of the in-place batched product, which torch's counter leaves out."""
    batch, rows, inner = a
    return 2 * batch * rows * inner * b[-1]


def _noise(*seconds: float) -> tuple[Tensor, Tensor]:
    """Return waveforms (B, N), zero-padded, and lengths (B,): seeded noise as loud as speech."""
    generator = torch.Generator().manual_seed(0)
    rows = [0.1 * torch.randn(round(s * RATE), generator=generator) for s in seconds]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor(
        [len(row) for row in rows]
    )


def _attributes(upstream: Upstream) -> Check:
    wanted = {
        "name": str,
        "num_layers": int,
        "dim": int,
        "stride": int,
        "fingerprint": str,
        "parameters": int,
    }
    wrong = []
    for key, kind in wanted.items():
        value = getattr(upstream, key, None)
        least = 0 if key == "parameters" else 1
        if not isinstance(value, kind) or (value < least if isinstance(value, int) else not value):
            wrong.append(f"{key}={value!r}")
    expected = (
        "name and fingerprint: text; num_layers, dim, stride: integers from 1; "
        "parameters: an integer"
    )
    return Check(
        "attributes", "failed" if wrong else "ok", expected, ", ".join(wrong) or "all of them"
    )


def _shapes(upstream: Upstream) -> Check:
    # axes of unequal sizes cannot be mistaken for each other
    batch = 3 if upstream.num_layers != 3 else 2
    layers, counts = upstream.extract(*_noise(*(1.0, 0.7, 0.4)[:batch]))
    if not (isinstance(layers, Tensor) and isinstance(counts, Tensor)):
        got = f"{type(layers).__name__} and {type(counts).__name__}"
        return Check("shapes", "failed", "two tensors: layers (L, B, T, D) and frames (B,)", got)
    longest = int(counts.max()) if counts.dim() == 1 and len(counts) else 0
    expected = (
        f"layers ({upstream.num_layers}, {batch}, {longest}, {upstream.dim}) float, "
        f"frames ({batch},) integer"
    )
    good = (
        tuple(layers.shape[:2]) == (upstream.num_layers, batch)
        and layers.dim() == 4
        and layers.shape[2] >= longest > 0
        and layers.shape[3] == upstream.dim
        and layers.is_floating_point()
        and counts.shape == (batch,)
        and not counts.is_floating_point()
    )
    got = (
        f"layers {tuple(layers.shape)} {_kind(layers)}, "
        f"frames {tuple(counts.shape)} {_kind(counts)}"
    )
    return Check("shapes", "ok" if good else "failed", expected, got)


def _kind(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _frame_counts(upstream: Upstream) -> Check:
    seconds = (SHORTEST, 0.5, 1.0, 2.37)
    expected = [round(s * RATE) / upstream.stride for s in seconds]
    counts = [int(upstream.extract(*_noise(s)).lengths[0]) for s in seconds]
    good = all(abs(a - b) <= FRAMES_OFF and b > 0 for a, b in zip(expected, counts, strict=True))
    wanted = (
        "samples / stride: " + ", ".join(f"{x:.1f}" for x in expected) + f" within {FRAMES_OFF}"
    )
    return Check("frame counts", "ok" if good else "failed", wanted, ", ".join(map(str, counts)))


def _finite(upstream: Upstream) -> Check:
    inputs = {
        "noise": _noise(1.0, SHORTEST),
        "silence": (torch.zeros(1, RATE), torch.tensor([RATE])),
    }
    broken = []
    for name, audio in inputs.items():
        layers = upstream.extract(*audio).layers  # (L, B, T, D)
        if text := broken_layers(layers.flatten(1, 2)):
            broken.append(f"of {name}, {text}")
    return Check(
        "finite",
        "failed" if broken else "ok",
        f"finite values up to {HUGE:.2g} for noise and silence",
        (broken or ["all of them"])[0],
    )


def _determinism(upstream: Upstream) -> Check:
    waves = _noise(1.0, 0.6)
    a, b = upstream.extract(*waves).layers, upstream.extract(*waves).layers
    off = (a - b).abs().max().item()
    return Check(
        "determinism",
        "ok" if torch.allclose(a, b) else "failed",
        "equal twice",
        f"largest change {off:.2g}",
    )


def _padding(upstream: Upstream) -> Check:
    leak = padding_leak(upstream.extract)
    outcome = "ok" if leak <= LEAK else "warning" if leak <= GROSS_LEAK else "failed"
    return Check(
        "padding",
        outcome,
        f"an utterance on its own and in a batch equal within {LEAK:g} of the largest value",
        f"{leak:.2g}" + ("; utterances are run one by one" if outcome == "warning" else ""),
    )


def _gradients(upstream: Upstream) -> Check:
    expected = "gradients reach the weights"
    with_gradients = getattr(upstream, "hidden_states", None)
    weights = [
        p for v in vars(upstream).values() if isinstance(v, nn.Module) for p in v.parameters()
    ]
    if with_gradients is None or not weights:
        return Check(
            "gradients", "n/a", expected, "no weights" if not weights else "extract() cuts them off"
        )
    before = [p.requires_grad for p in weights]
    try:
        with torch.enable_grad():
            for p in weights:
                p.requires_grad_(p.is_floating_point())
            layers = with_gradients(*_noise(0.5)).layers
            if not layers.requires_grad:
                return Check("gradients", "n/a", expected, "extract() cuts them off")
            layers.square().mean().backward()
        reached = [p for p in weights if p.grad is not None]
        finite = all(bool(torch.isfinite(p.grad).all()) for p in reached if p.grad is not None)
        got = f"{len(reached)} of {len(weights)} tensors" + ("" if finite else ", not finite")
        return Check("gradients", "ok" if reached and finite else "failed", expected, got)
    finally:
        for p, needed in zip(weights, before, strict=True):
            p.grad = None
            p.requires_grad_(needed)


CHECKS: dict[str, Callable[[Upstream], Check]] = {
    "attributes": _attributes,
    "shapes": _shapes,
    "frame counts": _frame_counts,
    "finite": _finite,
    "determinism": _determinism,
    "padding": _padding,
    "gradients": _gradients,
}
