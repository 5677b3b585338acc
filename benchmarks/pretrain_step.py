"""Time of one pretraining update against the same one on transformers' Data2VecAudioModel.

    python benchmarks/pretrain_step.py [base small tiny] [--pairs N]

Both sides: student and teacher forward, both losses, backward, AdamW, EMA, in training mode with
the recipe's dropouts, on the same waveforms, masks and labels. The transformers side runs its front
end once per update and teacher and student after it, as a careful user would write it, with
torch.optim.AdamW and a loop for the EMA. Prints the median time of each, the median of the pairs'
ratios, the peak memory of each in a process of its own, and our GFLOP/s over those of a matrix
product measured in the same run.
"""

import argparse
import copy
import dataclasses
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mt4ssl_bench.config import load
from mt4ssl_bench.data.frame_grid import KERNELS, STRIDES, frame_count
from mt4ssl_bench.training.optim import build_optimizer
from mt4ssl_bench.upstream.config import PretrainConfig
from mt4ssl_bench.upstream.masking import MaskedFrames, draw_masks
from mt4ssl_bench.upstream.model import MT4SSL

SHAPES = {"base": (2, 10), "small": (4, 10), "tiny": (4, 4)}  # utterances, seconds
Step = Callable[[], float]


class Batch:
    """What both sides read: waveforms (B, N), one mask (B, T), labels (B, T)."""

    def __init__(self, size: str, config: PretrainConfig) -> None:
        count, seconds = SHAPES[size]
        generator = torch.Generator().manual_seed(0)
        frames = frame_count(seconds * 16_000)
        self.waveforms = torch.randn(count, seconds * 16_000, generator=generator)
        self.mask = draw_masks([frames] * count, frames, config.masking, np.random.default_rng(0))
        self.masked = MaskedFrames.of(self.mask, count)
        self.labels = torch.randint(
            config.targets.offline.clusters, (count, frames), generator=generator
        )


def recipe(size: str) -> PretrainConfig:
    """Return the recipe with one mask per pass, which is what the other side has."""
    return load(PretrainConfig, f"mt4ssl_{size}", ["masking.clones=1"])


def our_step(size: str) -> Step:
    """One update of this package."""
    config = recipe(size)
    torch.manual_seed(0)
    model, batch = MT4SSL(config).train(), Batch(size, config)
    optimizer = build_optimizer(
        [{"params": [p for p in model.parameters() if p.requires_grad]}], config.optim
    )
    completed = 0

    def step() -> float:
        nonlocal completed
        losses = model(batch.waveforms, None, batch.labels, batch.masked)
        loss = model.total(losses) / losses.masked
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        completed += 1
        for _, extractor in model.named_extractors():
            extractor.update(completed)
        return loss.item()

    return step


class Peer(nn.Module):
    """Data2VecAudioModel with the two heads and a teacher."""

    def __init__(self, config: PretrainConfig) -> None:
        from transformers import Data2VecAudioConfig, Data2VecAudioModel

        super().__init__()
        encoder, online = config.encoder, config.targets.online
        self.student = Data2VecAudioModel(
            Data2VecAudioConfig(
                hidden_size=encoder.dim, num_hidden_layers=encoder.layers, num_attention_heads=encoder.heads,
                intermediate_size=encoder.ffn, conv_dim=(config.frontend.channels,) * 7, conv_kernel=KERNELS,
                conv_stride=STRIDES, conv_bias=False, num_conv_pos_embeddings=encoder.pos_depth,
                conv_pos_kernel_size=encoder.pos_kernel, num_conv_pos_embedding_groups=encoder.pos_groups,
                mask_time_prob=0.65, mask_feature_prob=0.0, hidden_dropout=encoder.dropout,
                attention_dropout=encoder.attention_dropout, activation_dropout=encoder.activation_dropout,
                feat_proj_dropout=0.0, layerdrop=encoder.layer_drop,
            )
        )  # fmt: skip
        self.teacher = copy.deepcopy(self.student.encoder).requires_grad_(requires_grad=False)
        self.outputs: list[Tensor] = []
        for layer in self.teacher.layers[-online.top_k :]:
            layer.feed_forward.register_forward_hook(lambda *seen: self.outputs.append(seen[2]))
        self.regression = nn.Linear(encoder.dim, encoder.dim)
        self.classes = nn.Linear(encoder.dim, config.targets.offline.clusters)

    def forward(self, batch: Batch) -> Tensor:
        """Return the mean loss per masked frame."""
        student = self.student
        frames, _ = student.feature_projection(
            student.feature_extractor(batch.waveforms).transpose(1, 2)
        )
        with torch.no_grad():
            self.outputs.clear()
            self.teacher.eval()(frames.detach().clone())
            normalized = [
                F.instance_norm(f.float().transpose(1, 2)).transpose(1, 2) for f in self.outputs
            ]
            targets = torch.stack(normalized).mean(0)[batch.mask]
        hidden = student._mask_hidden_states(frames.clone(), mask_time_indices=batch.mask)
        x = student.encoder(hidden).last_hidden_state[batch.mask]
        regression = F.mse_loss(self.regression(x), targets, reduction="sum") * x.shape[-1] ** -0.5
        classes = F.cross_entropy(self.classes(x), batch.labels[batch.mask], reduction="sum")
        return (regression + classes) / len(x)


def their_step(size: str) -> Step:
    """One update on transformers."""
    config = recipe(size)
    torch.manual_seed(0)
    peer, batch, rates = Peer(config).train(), Batch(size, config), config.optim
    trained = [p for p in peer.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=rates.lr, betas=rates.betas, eps=rates.eps, weight_decay=rates.weight_decay
    )

    def step() -> float:
        loss = peer(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for kept, current in zip(
                peer.teacher.parameters(), peer.student.encoder.parameters(), strict=True
            ):
                kept.mul_(0.999).add_(current, alpha=0.001)
        return loss.item()

    return step


def timed(step: Step) -> float:
    """Seconds of one update."""
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def peak_memory(side: str, size: str, queue: "multiprocessing.Queue[float]") -> None:
    """Put the peak resident GiB that two updates add to an idle process.

    Runs in a process of its own.
    """
    before = resident("VmRSS")
    step = SIDES[side](size)
    for _ in range(2):
        step()
    queue.put(resident("VmHWM") - before)


def resident(field: str) -> float:
    """Return this process's resident GiB from /proc: now (VmRSS) or at most so far (VmHWM)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(f"{field}:")[1].split()[0]) / 2**20


SIDES: dict[str, Callable[[str], Step]] = {"ours": our_step, "transformers": their_step}


def memory(side: str, size: str) -> float:
    """Peak resident GiB of one side."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=peak_memory, args=(side, size, queue))
    process.start()
    found: float = queue.get()
    process.join()
    return found


def matrix_peak() -> float:
    """FLOP/s of a 2048 x 2048 fp32 matrix product, the best of 10."""
    a, b = torch.randn(2, 2048, 2048)
    times = []
    for _ in range(10):
        began = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - began)
    return 2 * 2048**3 / min(times)


def flops(size: str) -> int:
    """Return the operations of our update: all products, both passes, without layer drop."""
    config = recipe(size)
    config = dataclasses.replace(
        config, encoder=dataclasses.replace(config.encoder, layer_drop=0.0)
    )
    model, batch = MT4SSL(config).train(), Batch(size, config)
    with (
        FlopCounterMode(display=False) as counter,
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        model.total(model(batch.waveforms, None, batch.labels, batch.masked)).backward()
    return int(counter.get_total_flops())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", default=list(SHAPES))
    parser.add_argument("--pairs", type=int, default=7)
    arguments = parser.parse_args()
    for size in arguments.sizes:
        ours, theirs = our_step(size), their_step(size)
        pairs = [(timed(ours), timed(theirs)) for _ in range(arguments.pairs + 1)][1:]
        mine, other = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratios = sorted(a / b for a, b in pairs)
        count, seconds = SHAPES[size]
        work, peak = flops(size), matrix_peak()
        del ours, theirs
        gib = {side: memory(side, size) for side in SIDES}
        print(
            f"{size}, {count} x {seconds} s: ours {mine:.3f} s, transformers {other:.3f} s, ratio "
            f"{statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]; peak memory "
            f"ours {gib['ours']:.2f} GiB, transformers {gib['transformers']:.2f} GiB, ratio "
            f"{gib['ours'] / gib['transformers']:.2f}; ours {work / mine / 1e9:.0f} GFLOP/s, "
            f"{100 * work / mine / peak:.0f} % of a matrix product's {peak / 1e9:.0f}"
        )


if __name__ == "__main__":
    main()
