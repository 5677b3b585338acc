"""Time of the front end, forward and backward, against torch's conv1d in channels-first layout.

    python benchmarks/frontend.py [channels ...]

Prints the median time of each, and the median of the pairs' ratios.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mt4ssl_bench.data.frame_grid import STRIDES
from mt4ssl_bench.upstream.config import FrontendConfig
from mt4ssl_bench.upstream.frontend import Frontend

SECONDS, UTTERANCES, PAIRS = 4, 4, 9


def plain(frontend: Frontend, waveforms: Tensor) -> Tensor:
    """Compute the usual form: Conv1d, transposed around LayerNorm."""
    x = waveforms[:, None]
    for weight, norm, stride in zip(frontend.convs, frontend.conv_norms, STRIDES, strict=True):
        x = F.gelu(norm(F.conv1d(x, weight, stride=stride).transpose(1, 2)).transpose(1, 2))
    return x.transpose(1, 2)


def ours(frontend: Frontend, waveforms: Tensor) -> Tensor:
    """Matrix products over windows that are views."""
    return frontend.convolve(waveforms)


def timed(
    form: Callable[[Frontend, Tensor], Tensor], frontend: Frontend, waveforms: Tensor
) -> float:
    """Seconds of one forward and backward pass."""
    began = time.perf_counter()
    form(frontend, waveforms).square().sum().backward()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("channels", type=int, nargs="*", default=[64, 512])
    options = parser.parse_args()
    torch.manual_seed(0)
    waveforms = torch.randn(UTTERANCES, SECONDS * 16_000)
    for channels in options.channels:
        frontend = Frontend(FrontendConfig(channels=channels), dim=64)
        difference = (plain(frontend, waveforms) - frontend.convolve(waveforms)).abs().max().item()
        pairs = [
            [timed(form, frontend, waveforms) for form in (ours, plain)] for _ in range(PAIRS + 1)
        ][1:]
        mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        print(
            f"{channels} channels, {UTTERANCES} x {SECONDS} s: ours {mine * 1e3:.1f} ms, conv1d "
            f"{theirs * 1e3:.1f} ms, ratio {ratio:.2f}, largest difference {difference:.1e}"
        )


if __name__ == "__main__":
    main()
