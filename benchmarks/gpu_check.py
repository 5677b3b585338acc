"""Ten minutes on one GPU: is it right, what does it wait for, and how fast is it?

    python benchmarks/gpu_check.py --out gpu_check.jsonl

The sections stand in the order of their value; each prints one JSON line per figure and may fail
without ending the others. Without a GPU it runs the same sections in tiny sizes, as a test of
itself; figures of such a run mean nothing.
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import sweep
import torch
import torch.nn.functional as F
from lhotse import MonoCut, Recording, SupervisionSegment
from torch import Tensor, nn

from mt4ssl_bench.config import load
from mt4ssl_bench.data.audio import RATE
from mt4ssl_bench.data.batches import pad
from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.data.frame_grid import frame_count, frame_counts
from mt4ssl_bench.device import Arithmetic, moved, pick_device, to_host
from mt4ssl_bench.downstream.config import TaskConfig
from mt4ssl_bench.downstream.task import TASKS
from mt4ssl_bench.downstream.training.audio_batches import Audio
from mt4ssl_bench.downstream.training.finetune import Finetuning
from mt4ssl_bench.downstream.training.sweep import Split, Sweep
from mt4ssl_bench.encoders.load import load_upstream
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.features.crops import Crops
from mt4ssl_bench.features.file import Writer
from mt4ssl_bench.features.forward_pass import Pass, padding_is_safe
from mt4ssl_bench.features.index import Header
from mt4ssl_bench.features.live import LiveFeatures
from mt4ssl_bench.features.precision import encode
from mt4ssl_bench.features.store import header_of
from mt4ssl_bench.results import provenance
from mt4ssl_bench.training.distributed import World, no_sync
from mt4ssl_bench.training.optim import build_optimizer
from mt4ssl_bench.training.precision import autocast
from mt4ssl_bench.upstream.config import PretrainConfig
from mt4ssl_bench.upstream.kernels import Spans, attention
from mt4ssl_bench.upstream.masking import MaskedFrames, draw_masks
from mt4ssl_bench.upstream.model import MT4SSL, padding_mask
from mt4ssl_bench.upstream.pretrain import build_model

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
COMPILED = ("fit.compile=true",) if CUDA else ()  # a CPU would compile for minutes
TOY = "tests/fixtures/toy.yaml"
BASE, SMALL = ("mt4ssl_base", "mt4ssl_tiny") if CUDA else (TOY, TOY)
STILL = ("encoder.dropout=0", "encoder.attention_dropout=0")
WORST = 1e-3  # relative error of a gradient in fp32
ROWS, SECONDS = (19, 12.5) if CUDA else (2, 1.0)  # 237.5 s, the batch of mt4ssl_base
BEGAN = time.monotonic()
LINES: list[dict[str, object]] = []
Batch = tuple[Tensor, Tensor, Tensor]  # waveforms (B, N), lengths (B,), labels (B, T)


def say(name: str, **values: object) -> None:
    """Print a figure, and keep it."""
    LINES.append({"seconds": round(time.monotonic() - BEGAN, 1), "figure": name, **values})
    print(json.dumps(LINES[-1], default=lambda value: f"{value}"), flush=True)


def milliseconds(work: Callable[[], object], *, times: int = 8, warm: int = 3) -> float:
    """Return the median time of a call on the host's clock, from an idle device to an idle one."""
    taken = []
    for call in range(warm + times):
        began = time.perf_counter()
        work()
        if CUDA:
            torch.cuda.synchronize()
        if call >= warm:
            taken.append(1e3 * (time.perf_counter() - began))
    return round(statistics.median(taken), 3)


def peak_gib() -> float:
    """Return the peak of the device's memory since free()."""
    return round(torch.cuda.max_memory_allocated() / 2**30, 2) if CUDA else 0.0


def free() -> None:
    """Give back what earlier figures held."""
    gc.collect()
    if CUDA:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


class Step:
    """Updates of pretraining on random audio, as `pretrain` makes them."""

    def __init__(self, *keys: str, recipe: str = BASE, device: str = DEVICE, seed: int = 0) -> None:
        self.config = load(PretrainConfig, recipe, keys)
        self.device = torch.device(device)
        self.model: MT4SSL = build_model(self.config, device).train()
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = build_optimizer([{"params": parameters}], self.config.optim)
        self.generator, self.updates = torch.Generator().manual_seed(seed), 0
        self.batch = self.draw()

    def draw(self, seconds: float = SECONDS, rows: int = ROWS) -> Batch:
        """Return a batch as the loader gives it: on the host, pinned where there is a GPU."""
        longest = round(seconds * RATE)
        shares = torch.empty(rows).uniform_(0.93, 1, generator=self.generator)
        lengths = (shares * longest).long()
        lengths[0] = longest
        waves = torch.randn(rows, longest, generator=self.generator)
        for wave, length in zip(waves, lengths.tolist(), strict=True):
            wave[length:] = 0
        clusters = self.config.targets.offline.clusters
        labels = torch.randint(clusters, (rows, frame_count(longest)), generator=self.generator)
        pinned = [x.pin_memory() if CUDA else x for x in (waves, labels)]
        return pinned[0], lengths, pinned[1]

    def total(self, batch: Batch, kind: str = "auto", net: nn.Module | None = None) -> Tensor:
        """Return the loss of a batch, summed over masked frames, by the model or what wraps it."""
        waves, lengths, labels = batch
        frames = frame_counts(lengths)
        counts = frames.tolist()
        draws = np.random.default_rng(self.updates)
        masks = [
            draw_masks(counts, max(counts), self.config.masking, draws)
            for _ in range(self.config.masking.clones)
        ]
        masked, padding = (
            MaskedFrames.of(torch.cat(masks), len(counts)),
            padding_mask(frames),
        )
        with autocast(kind, self.device):
            losses = (net or self.model)(
                moved(waves, self.device),
                None if padding is None else moved(padding, self.device),
                moved(labels, self.device),
                MaskedFrames(*(moved(each, self.device) for each in masked)),
            )
        return self.model.total(losses)

    def __call__(self, batch: Batch | None = None, kind: str = "auto") -> float:
        """Make an update; return the loss, for which it waits once."""
        torch.manual_seed(self.updates)
        total = self.total(batch or self.batch, kind)
        total.backward()  # type: ignore[no-untyped-call]
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        loss, norm = torch.stack([total.detach(), nn.utils.get_total_norm(grads)]).tolist()
        torch._foreach_mul_(grads, 1 / max(norm, 1.0))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        for _, extractor in self.model.named_extractors():
            extractor.update(self.updates)
        return float(loss)


def environment() -> None:
    """Report what this machine has."""
    about = torch.cuda.get_device_properties(0) if CUDA else None
    shm = os.statvfs("/dev/shm")  # noqa: S108 - the size of what loaders share
    say(
        "environment",
        device=about.name if about else "none",
        memory_gib=round(about.total_memory / 2**30, 1) if about else 0,
        **provenance.environment(),
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version() if CUDA else None,
        cores=os.cpu_count(),
        shm_gib=round(shm.f_blocks * shm.f_frsize / 2**30, 2),
        cudnn_attention=torch.backends.cuda.cudnn_sdp_enabled(),
        tf32=[torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32],
    )


def correctness() -> None:
    """Loss and gradients on the device against the CPU in fp32; of bf16, directions."""
    cases = {
        "eager": ("fit.compile=false",),
        "filter bank": ("frontend.mels=40", "fit.compile=false"),
        "compiled": COMPILED,  # without a compiler, the cases before are there
        "checkpointing": ("fit.checkpointing=true", *COMPILED),
    }
    for name, keys in cases.items():
        still = (*STILL, "encoder.layer_drop=0")
        cpu = Step(*still, *keys, "fit.compile=false", recipe=SMALL, device="cpu")
        there = Step(*still, *keys, recipe=SMALL)
        there.model.load_state_dict(cpu.model.state_dict())
        batch = cpu.draw(3.0 if CUDA else 1.0, 4)
        expected = _gradients(cpu, batch, "none")
        for kind in ("none", "bf16"):
            loss, grads = _gradients(there, batch, kind)
            cosine = [
                F.cosine_similarity(grads[n], g, dim=0).item() for n, g in expected[1].items()
            ]
            error = [
                ((grads[n] - g).norm() / g.norm().clamp(min=1e-12)).item()
                for n, g in expected[1].items()
            ]
            say(
                f"correct, {name}, {'fp32' if kind == 'none' else kind}",
                loss_error=abs(loss / expected[0] - 1),
                worst_gradient_error=max(error),
                least_cosine=min(cosine),
                right=max(error) < WORST if kind == "none" else min(cosine) > 0.98,
            )


def _gradients(step: Step, batch: Batch, kind: str) -> tuple[float, dict[str, Tensor]]:
    step.model.zero_grad()
    total = step.total(batch, kind)
    total.backward()  # type: ignore[no-untyped-call]
    # a key's bias moves no attention weight: its gradient is noise
    grads = {
        name: p.grad.double().cpu().flatten()
        for name, p in step.model.named_parameters()
        if p.grad is not None and "qkv.bias" not in name
    }
    return total.item(), grads


def base_step() -> None:
    """Time the update of mt4ssl_base as it is by default, and its kernels; then larger batches."""
    free()
    step = Step()
    _time("default", step, step.batch)
    _kernels(step)
    for times in (2, 4) if CUDA else ():
        free()
        _time(f"default, {times} x as much audio", step, step.draw(rows=times * ROWS))


def other_base_steps() -> None:
    """Time the update of mt4ssl_base eager, and in fp32."""
    for name, kind in (("eager", "auto"), ("fp32", "none")):
        free()
        step = Step("fit.compile=false")
        _time(name, step, step.batch, kind)


def _time(name: str, step: Step, batch: Batch, kind: str = "auto") -> None:
    began = time.perf_counter()
    loss = step(batch, kind)
    first = time.perf_counter() - began
    taken = milliseconds(lambda: step(batch, kind), times=4 if kind == "none" else 8)
    say(
        f"step, {name}",
        ms=taken,
        audio_seconds_per_second=round(len(batch[0]) * SECONDS * 1e3 / taken, 1),
        peak_gib=peak_gib(),
        first_seconds=round(first, 1),
        loss=loss,
    )


def _kernels(step: Step) -> None:
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CUDA if CUDA else activity.CPU]) as profile:
        step()
    key = "self_device_time_total" if CUDA else "self_cpu_time_total"
    rows = sorted(profile.key_averages(), key=lambda row: -getattr(row, key))
    say(
        "kernels of a step",
        calls=sum(r.count for r in rows),
        ms=sum(getattr(r, key) for r in rows) / 1e3,
    )
    for row in rows[: 25 if CUDA else 3]:
        say("kernel", ms=round(getattr(row, key) / 1e3, 3), calls=row.count, of=row.key[:100])


def new_shapes() -> None:
    """Unseen lengths: the dearest update, and the same lengths again."""
    step = Step()
    step()
    batches = [
        step.draw(s, rows=max(1, ROWS - 3)) for s in np.linspace(SECONDS * 0.9, SECONDS * 1.2, 10)
    ]
    for turn in ("first", "again"):
        taken = [milliseconds(lambda b=b: step(b), times=1, warm=0) for b in batches]
        say(f"unseen lengths, {turn}", worst_ms=max(taken), median_ms=statistics.median(taken))


def waits() -> None:
    """Where an update waits for the device, by file and line; one place is needed."""
    step = Step("fit.compile=false")
    step()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        if CUDA:
            torch.cuda.set_sync_debug_mode("warn")
        step()
        if CUDA:
            torch.cuda.set_sync_debug_mode("default")
    places = Counter(
        f"{Path(each.filename).name}:{each.lineno}"
        for each in seen
        if "synchronizing CUDA" in str(each.message)
    )
    say("waits in an update", count=sum(places.values()), places=dict(places))


def parts() -> None:
    """Front end and attention by themselves, each in its forms."""
    for name, keys in (("as used", ()), ("eager", ("fit.compile=false",))):
        free()
        step = Step(*keys)
        waves = step.batch[0].to(DEVICE)

        def front(step: Step = step, waves: Tensor = waves) -> None:
            with autocast("auto", step.device):
                y = step.model.frontend(waves)
            y.float().sum().backward()

        say(f"front end, {name}", both_ms=milliseconds(front), peak_gib=peak_gib())
    if CUDA:
        _attention(624)


def _attention(frames: int) -> None:
    backends = torch.nn.attention.SDPBackend
    q, k, v = (
        torch.randn(ROWS, 12, frames, 64, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
        for _ in range(3)
    )
    last = torch.randint(frames * 9 // 10, frames + 1, (ROWS, 1, 1, 1), device=DEVICE)
    keys = torch.arange(frames, device=DEVICE)[None, None, None] < last
    torch.backends.cuda.enable_cudnn_sdp(enabled=True)
    for name, backend, mask in (
        ("cuDNN", backends.CUDNN_ATTENTION, keys),
        ("efficient", backends.EFFICIENT_ATTENTION, keys),
        ("flash, without a mask", backends.FLASH_ATTENTION, None),
    ):

        def attend(
            backend: torch.nn.attention.SDPBackend = backend, mask: Tensor | None = mask
        ) -> Tensor:
            with torch.nn.attention.sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=0.1)

        both = milliseconds(lambda attend=attend: attend().sum().backward())
        say(f"attention, {name}", forward_ms=milliseconds(attend), both_ms=both)

    spans = Spans.of(~keys[:, 0, 0])
    q, k, v = (x.transpose(1, 2).contiguous().detach().requires_grad_() for x in (q, k, v))

    def in_spans() -> Tensor:
        return attention(q, k, v, spans, 0.1)

    both = milliseconds(lambda: in_spans().sum().backward())
    say("attention, flash, in spans", forward_ms=milliseconds(in_spans), both_ms=both)
    torch.backends.cuda.enable_cudnn_sdp(enabled=False)


def heads() -> None:
    """Time the updates of the heads of one and of five rates, from a store of Base-size features."""
    threads = torch.get_num_threads()
    for case in sweep.CASES if CUDA else sweep.CASES[:1]:
        one, five = sweep.measure(case, 10, device=DEVICE)
        say(f"heads, {case.name}", one_ms=round(1e3 * one, 2), five_ms=round(1e3 * five, 2))
    torch.set_num_threads(threads)


def frozen() -> None:
    """Time the pass of a frozen encoder: the device's part, and the way back to the host."""
    upstream = load_upstream(f"random:{BASE}", device=DEVICE)
    say("padding is safe", value=padding_is_safe(upstream))
    draws, count = np.random.default_rng(0), 16 if CUDA else 2
    lengths = [round((12 + draws.random() if CUDA else 1) * RATE) for _ in range(count)]
    waves = [0.1 * draws.standard_normal(length, dtype=np.float32) for length in lengths]
    seconds, padded = sum(lengths) / RATE, pad(waves)
    taken = milliseconds(lambda: upstream.extract(*padded), times=5)
    say("extract, fp32", ms=taken, audio_seconds_per_second=round(1e3 * seconds / taken, 1))
    with autocast("auto", torch.device(DEVICE)):
        taken = milliseconds(lambda: upstream.extract(*padded), times=5)
    say("extract, bf16", ms=taken, audio_seconds_per_second=round(1e3 * seconds / taken, 1))
    layers, _ = upstream.extract(*padded)
    host = layers.float().cpu()
    say("features of this batch", gb=round(host.numel() * 4 / 1e9, 3))
    say("to the host, fp16", ms=milliseconds(lambda: layers.half().cpu(), times=3))
    say("to the host, fp16, pinned", ms=milliseconds(lambda: to_host(layers.half()), times=3))
    say("encoding for a store", ms=milliseconds(lambda: encode(layers[:, 0], "fp16"), times=3))
    say("back to the device, fp32", ms=milliseconds(lambda: host.to(DEVICE), times=3))


def small_steps() -> None:
    """Time the update of the smaller recipes, whose kernels are short: compiled and eager."""
    for recipe, rows, seconds in (
        ("mt4ssl_small", 13, 12.3),
        ("mt4ssl_tiny", 4, 4.0),
        ("mt4ssl_fbank", 4, 4.0),
    ):
        for name, keys in (("compiled", COMPILED), ("eager", ("fit.compile=false",))):
            free()
            step = Step(*keys, recipe=recipe)
            batch = step.draw(*((seconds, rows) if CUDA else (SECONDS, ROWS)))
            taken = milliseconds(
                lambda step=step, batch=batch: step(batch), times=20 if CUDA else 2
            )
            say(f"step of {recipe}, {name}", ms=taken, peak_gib=peak_gib())


def memory() -> None:
    """Report the peak memory of the update of mt4ssl_base by batch, and with checkpointing."""
    for rows in (8, ROWS, 2 * ROWS) if CUDA else (1,):
        for keys in ((), ("fit.checkpointing=true",)):
            free()
            step = Step(*keys)
            batch = step.draw(SECONDS, rows)
            step(batch)
            step(batch)
            say(f"memory, {rows * SECONDS:g} s, {' '.join(keys) or 'default'}", peak_gib=peak_gib())


def shared_gradients() -> None:
    """Compare DDP over one process with none: dropped layers, and accumulated batches."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}
    torch.distributed.init_process_group("nccl" if CUDA else "gloo", rank=0, world_size=1)
    # two, so that the model is wrapped; the gradients are those of the only process
    world = World(size=2, device="cuda:0" if CUDA else "cpu")
    for name, keys in {"eager": ("fit.compile=false",), "compiled": COMPILED}.items():
        _compare_shared(name, world, Step(*STILL, "encoder.layer_drop=0.3", *keys, recipe=SMALL))
    torch.distributed.destroy_process_group()


def _compare_shared(name: str, world: World, step: Step) -> None:
    plain, grads = step.model, list[dict[str, Tensor]]()
    batches = [step.draw(3.0 if CUDA else 1.0, 4) for _ in range(3)]
    for net in (world.wrap(plain, unused=True), plain):
        plain.zero_grad()
        for number, batch in enumerate(batches):
            torch.manual_seed(number)
            with no_sync(net) if number < len(batches) - 1 else nullcontext():
                step.total(batch, "none", net).backward()  # type: ignore[no-untyped-call]
        grads.append({n: p.grad.clone() for n, p in plain.named_parameters() if p.grad is not None})
    error = max(
        ((grads[0][n] - g).norm() / g.norm().clamp(min=1e-12)).item()
        for n, g in grads[1].items()
        if "qkv.bias" not in n
    )
    missing = len(grads[1].keys() - grads[0].keys())
    say(
        f"shared gradients against plain, {name}",
        worst_error=error,
        missing=missing,
        right=error < WORST and not missing,
    )


SPEAKERS = 1251


def recordings(folder: Path, count: int, seconds: float) -> list[Cut]:
    """Write files of noise, as FLAC; return their cuts with phones, text and speaker."""
    draws, cuts = np.random.default_rng(0), list[Cut]()
    for number in range(count):
        length = round(RATE * seconds * draws.uniform(0.93, 1))
        wave = 0.1 * draws.standard_normal(length, dtype=np.float32)
        path = folder / f"{number}.flac"
        soundfile.write(path, wave, RATE)
        said = {
            "phones": " ".join(
                f"P{(n + number) % 70}" for n in draws.integers(0, 70, int(10 * seconds))
            )
        }
        text = " ".join("ABCDEFG"[n] * 4 for n in draws.integers(0, 7, int(3 * seconds)))
        about = SupervisionSegment(
            path.stem,
            path.stem,
            0,
            length / RATE,
            speaker=f"S{number % SPEAKERS}",
            text=text,
            custom=said,
        )
        recording = Recording.from_file(path, recording_id=path.stem)
        cuts.append(MonoCut(path.stem, 0, length / RATE, 0, [about], recording=recording))
    return cuts


KINDS: tuple[Arithmetic, ...] = ("bf16", "fp32", "tf32") if CUDA else ("fp32",)


def passes() -> None:
    """Time passes as `evaluate` makes them: audio from files, with and without a store."""
    upstream = load_upstream(f"random:{BASE}", device=DEVICE)
    with tempfile.TemporaryDirectory(prefix="gpu_check") as name:
        cuts = recordings(Path(name), *((288, 12.7) if CUDA else (4, 1.0)))
        seconds = sum(cut.duration for cut in cuts)
        for kind in KINDS:
            forward = Pass(upstream, precision=kind)
            header = header_of(forward, cuts, "digest", "train", "fp16", "noise")

            def passed(forward: Pass = forward) -> None:
                for _ in forward.tensors(cuts):
                    pass

            def stored(forward: Pass = forward, header: Header = header) -> None:
                with tempfile.TemporaryDirectory(prefix="gpu_check") as folder:
                    Writer(Path(folder) / "x.bin", header).write(forward.tensors(cuts))

            for what, work in (("from files", passed), ("from files to a store", stored)):
                taken = milliseconds(work, times=1, warm=1)
                say(f"pass, {kind}, {what}", ms=taken, times_real_time=round(1e3 * seconds / taken))


def rows_on_the_fly() -> None:
    """Time the training of heads as `evaluate` does it: audio from files, without a store."""
    upstream = load_upstream(f"random:{BASE}", device=DEVICE)
    with tempfile.TemporaryDirectory(prefix="gpu_check") as name:
        cuts = recordings(Path(name), *((288, 12.7) if CUDA else (4, 1.0)))
        for task, crops, updates in (("phoneme", 0.0, 10), ("speaker", 8.0, 8), ("asr", 0.0, 4)):
            for kind in KINDS[:2]:
                _row(upstream, cuts, task, crops, kind, updates if CUDA else 2)


def _row(
    upstream: Upstream, cuts: Sequence[Cut], task: str, crops: float, kind: Arithmetic, updates: int
) -> None:
    """Time the micro-batches of a task with one rate and with five."""
    means = Crops(seconds=crops, count=8) if crops else None
    features = LiveFeatures(Pass(upstream, means, precision=kind), cuts, "fp16")
    train, valid = (
        Split(part, features, pooled=bool(crops), device=DEVICE) for part in (cuts, cuts[:1])
    )
    for rates in (sweep.RATES[:1], sweep.RATES):
        taken = []
        # the first warms up; the difference of the others leaves out what is done once
        for steps in (2, 2, 2 + updates):
            config = superb(task, sweep=rates, steps=steps, validate_every=10**6)
            job = TASKS.get(task)(config)
            job.fit_units(cuts)
            began = time.perf_counter()
            Sweep(job, upstream.num_layers, upstream.dim, device=DEVICE).run(train, valid)
            taken.append(time.perf_counter() - began)
        each = 1e3 * (taken[2] - taken[1]) / updates / config.accumulate
        say(
            f"on the fly, {task}, {kind}, {len(rates)} rates",
            ms_per_batch=round(each, 2),
            utterances=config.batch,
        )


def superb(task: str, **settings: object) -> TaskConfig:
    """Return SUPERB's recipe of a task with some settings changed."""
    config = load(TASKS.get(task).Config, task if CUDA else f"{task}_tiny", ())
    return replace(config, **settings)


def finetune() -> None:
    """Time the micro-batch of fine-tuning, 200 s of audio."""
    upstream = load_upstream(f"random:{BASE}", device=DEVICE)
    with tempfile.TemporaryDirectory(prefix="gpu_check") as name:
        cuts = recordings(Path(name), 16 if CUDA else 2, 12.5 if CUDA else 1.0)
        config = load(TASKS.get("asr").Config, "asr_finetune", ())
        task = TASKS.get("asr")(config)
        task.fit_units(cuts)
        tuning = Finetuning(task, upstream, lr=5e-5, folder=Path(name), world=World(device=DEVICE))
        tuning.model.train()
        batch = Audio(task, cuts, "train").make(cuts)

        def step() -> None:
            loss = tuning.loss(batch, 1, 0).total
            loss.backward()  # type: ignore[no-untyped-call]

        free()
        say("fine-tuning, 200 s", ms=milliseconds(step), peak_gib=peak_gib())


def commands() -> None:
    """Run the command line on the device, from a table of audio to results."""
    root = Path(tempfile.mkdtemp(prefix="gpu_check"))
    _write_tones(root / "tones")
    corpus, run = root / "corpus", root / "run"
    shared = ("--device", DEVICE)
    train = ("pretrain", TOY, f"data.corpus={corpus}", "fit.steps=40", "data.workers=2", *shared)
    few = ("steps=20", "validate_every=10", "--corpus", corpus, *shared)
    out, other = ("--out", root / "results"), ("--out", root / "live")  # where no record is found
    heads = ("--task", "phoneme_tiny", "--task", "asr_tiny", "--task", "speaker_tiny")
    calls: dict[str, Sequence[object]] = {
        "prepare": ("prepare", "table", root / "tones" / "manifest.tsv", "--out", corpus),
        "pretrain": (*train, "--out", run),
        "pretrain, eager, fp16": (*train, "fit.autocast=fp16", "fit.compile=false", "--out", root / "fp16"),
        "pretrain, checkpointing": (*train, "fit.checkpointing=true", "fit.compile=false", "--out", root / "less"),
        "kmeans of a layer": (
            "kmeans", TOY, f"data.corpus={corpus}", f"targets.offline.features={run}",
            "targets.offline.layer=1", "--out", root / "labels", *shared,
        ),
        "evaluate": ("evaluate", run, "fbank", *heads, *few, *out),
        "evaluate, on the fly": (
            "evaluate", run, "--task", "phoneme_tiny", "store.limit_gb=0", *few, *other,
        ),
        "evaluate, fine-tuned": ("evaluate", run, "--task", "asr_finetune_tiny", *few, *out),
        "check-upstream": ("check-upstream", run, *shared),
    }  # fmt: skip
    for name, arguments in calls.items():
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "mt4ssl_bench", *map(str, arguments)],
            capture_output=True, text=True, check=False, timeout=240,
        )  # fmt: skip
        end = "" if done.returncode == 0 else done.stderr.strip()[-600:]
        say(
            f"command, {name}",
            code=done.returncode,
            right=done.returncode == 0,
            took=round(time.perf_counter() - began, 1),
            end=end,
        )


def _write_tones(folder: Path) -> None:
    """Write three words, a tone each, by six speakers, with their phones."""
    words = {"LOW": ("L OW", 300.0), "MID": ("M IH D", 900.0), "HIGH": ("HH AY", 2400.0)}
    draws = np.random.default_rng(0)
    lines = ["id\tpath\tduration_s\tspeaker\tlanguage\ttext\tphones\tsplit"]
    folder.mkdir(parents=True)
    for speaker in range(6):
        for number in range(20):
            text, waves = draws.choice(list(words), 3 + number % 3), []
            for word in text:
                times = np.arange(round(RATE * draws.uniform(0.25, 0.4))) / RATE
                pitch = words[word][1] * (1 + speaker / 100)
                waves += [0.2 * np.sin(2 * np.pi * pitch * times), np.zeros(RATE // 20)]
            wave = np.concatenate(waves)
            name, split = (
                f"s{speaker}-{number}",
                "test" if number < 2 else "valid" if number < 4 else "train",
            )
            soundfile.write(
                folder / f"{name}.flac", wave + 0.003 * draws.standard_normal(len(wave)), RATE
            )
            phones = " ".join(words[word][0] for word in text)
            lines.append(
                f"{name}\t{name}.flac\t{len(wave) / RATE:.3f}\tspk{speaker}\ten\t{' '.join(text)}\t{phones}\t{split}"
            )
    (folder / "manifest.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


SECTIONS = (
    environment, shared_gradients, correctness, commands, heads, base_step, finetune, passes,
    rows_on_the_fly, small_steps, waits, new_shapes, frozen, parts, memory, other_base_steps,
)  # fmt: skip


@contextmanager
def _section(section: Callable[[], None]) -> Iterator[None]:
    free()
    began = time.monotonic()
    try:
        yield
    except Exception as error:  # noqa: BLE001 - the others go on
        where = traceback.format_exc().splitlines()[-6:]
        say("FAILED", section=section.__name__, error=repr(error)[:400], where=where)
    say("end of section", section=section.__name__, took=round(time.monotonic() - began, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu_check.jsonl"))
    names = ", ".join(section.__name__ for section in SECTIONS)
    parser.add_argument("--only", default="", help=f"sections, comma-separated, of {names}")
    parser.add_argument("--limit", type=float, default=420, help="seconds after which none begins")
    options = parser.parse_args()
    pick_device(DEVICE)  # sets what every command sets
    for section in SECTIONS:
        if options.only and section.__name__ not in options.only.split(","):
            continue
        if time.monotonic() - BEGAN > options.limit:
            say("no time left", section=section.__name__)
            continue
        with _section(section):
            section()
        options.out.write_text("\n".join(map(json.dumps, LINES)) + "\n", encoding="utf-8")
    failed = [str(line["section"]) for line in LINES if line["figure"] == "FAILED"]
    wrong = [str(line["figure"]) for line in LINES if not line.get("right", True)]
    if failed or wrong:
        raise SystemExit(f"failed: {', '.join(failed + wrong)}")


if __name__ == "__main__":
    main()
