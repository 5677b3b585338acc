"""ABX of all layers of a Base-size encoder: time, memory, and the numbers of what was computed.

    python benchmarks/abx_speed.py --minutes 10 --layers 13

Features are random, in a file in half precision as the store keeps them; the alignment is that of
English sentences with random durations. Triphones within and across speakers with all triplets, or
phones in any context with at most 10 tokens of a kind and 5 speakers of x.
"""

import argparse
import resource
import tempfile
import time
from collections import Counter
from importlib.resources import files

import numpy as np
import torch

from mt4ssl_bench.abx.distance import Indices
from mt4ssl_bench.abx.intervals import replicate
from mt4ssl_bench.abx.items import phone_tokens
from mt4ssl_bench.abx.plan import AbxConfig, plan
from mt4ssl_bench.abx.score import score_layers
from mt4ssl_bench.abx.spans import find_frames
from mt4ssl_bench.data.alignment import Alignment
from mt4ssl_bench.data.cut import Turn
from mt4ssl_bench.data.lexicon import pronounce
from mt4ssl_bench.data.lexicon_files import cmudict

RATE = 50  # frames per second


def alignment_of(minutes: float, rng: np.random.Generator) -> Alignment:
    """Phones of the demo's sentences: lognormal durations, 80 ms on average, no pauses."""
    sources = files("mt4ssl_bench") / "corpora" / "sources"
    text = (sources / "demo_sentences.txt").read_text(encoding="utf-8")
    segments: dict[str, list[Turn]] = {}
    end = total = 0.0
    for number, sentence in enumerate(text.splitlines() * 100):
        start, aligned = 0.0, []
        for phone in pronounce(sentence, cmudict(), Counter()).split():
            end = round(start + min(0.03 + rng.lognormal(-3.2, 0.6), 0.3), 2)
            aligned.append(Turn(start, end, phone))
            start = end
        segments[f"utterance-{number}"] = aligned
        total += end
        if total > 60 * minutes:
            break
    return Alignment(segments)


def operations(lengths: Indices, same: Indices) -> str:
    """Pairs of tokens and frames of the blocks, all of which are compared."""
    pairs = cells = 0
    for block in np.unique(same):
        sizes = lengths[same == block]
        pairs += len(sizes) * (len(sizes) - 1) // 2
        cells += int(sizes.sum()) ** 2
    return f"{pairs:,} pairs of tokens and {cells:,} pairs of frames at most, per layer"


def main() -> None:
    """Print time, memory and scores."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="of speech (%(default)s)")
    parser.add_argument("--layers", type=int, default=13)
    parser.add_argument("--dimensions", type=int, default=768)
    parser.add_argument("--speakers", type=int, default=8)
    parser.add_argument("--context", choices=["same", "any"], default="same")
    options = parser.parse_args()
    minutes, speakers, context = options.minutes, options.speakers, options.context
    layers, dimensions = options.layers, options.dimensions
    rng = np.random.default_rng(0)
    alignment = alignment_of(minutes, rng)
    speaker = {name: f"s{i % speakers}" for i, name in enumerate(alignment.segments)}
    kind = "triphone" if context == "same" else "phoneme"
    tokens, dropped = phone_tokens(alignment, speaker, kind)
    num_frames = {name: int(each[-1][1] * RATE) for name, each in alignment.segments.items()}
    spans = find_frames(tokens, num_frames)
    config = (
        AbxConfig() if context == "same" else AbxConfig(context="any", max_tokens=10, max_groups=5)
    )
    comparisons = plan(spans.tokens, config)
    print(f"{len(tokens):,} tokens ({dropped}); {sum(num_frames.values()):,} frames")
    blocks = np.repeat(comparisons.sets.blocks, comparisons.sets.sizes)
    print(operations(spans.lengths[comparisons.order], blocks))
    with tempfile.NamedTemporaryFile() as file:
        places, place = {}, 0
        for name, count in num_frames.items():
            shape = (count, layers, dimensions)
            places[name] = (place, shape)
            values = rng.standard_normal(shape, dtype=np.float32).astype(np.float16)
            place += file.write(values.tobytes())
        file.flush()

        def features(name: str) -> torch.Tensor:
            offset, shape = places[name]
            flat = np.fromfile(file.name, np.float16, int(np.prod(shape)), offset=offset)
            return torch.from_numpy(flat).view(shape).transpose(0, 1)

        begin, used = time.perf_counter(), time.process_time()
        tables = score_layers(spans, features, config)
        seconds, used = time.perf_counter() - begin, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{layers} layers in {seconds:.1f} s ({used:.1f} s of processor time, "
        f"{torch.get_num_threads()} threads), {peak:.2f} GiB at most"
    )
    for mode, table in tables.items():
        begin = time.perf_counter()
        replicates = replicate(table)
        seconds = time.perf_counter() - begin
        print(f"{mode}: {100 * table.errors().mean():.2f} % on average; {table.counts}")
        interval = replicates.interval(0)
        print(f"{mode}: intervals of all layers in {seconds:.2f} s; layer 0: {interval}")


if __name__ == "__main__":
    main()
