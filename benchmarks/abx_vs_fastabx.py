"""ABX scores against fastabx (Python 3.12 or newer; pip install fastabx) on the same item files.

    python benchmarks/abx_vs_fastabx.py --minutes 3

Writes item files and features of synthetic speech, in which phones, speakers and noise add up, and
prints both scores and their difference. fastabx keeps the errors of cells in single precision.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from mt4ssl_bench.abx.items import phone_tokens, read_items, write_items
from mt4ssl_bench.abx.plan import AbxConfig
from mt4ssl_bench.abx.score import score_layers
from mt4ssl_bench.abx.spans import find_frames
from mt4ssl_bench.data.alignment import Alignment

sys.path.insert(0, str(Path(__file__).parent))
from abx_speed import RATE, alignment_of

DIMENSIONS, SPEAKERS = 32, 4


def features_of(
    alignment: Alignment, speaker: dict[str, str], rng: np.random.Generator
) -> dict[str, torch.Tensor]:
    """Return frames (T, DIMENSIONS) by utterance: a vector of the phone, one of the speaker, noise."""
    phones: dict[str, np.ndarray] = {}
    speakers = {name: rng.normal(size=DIMENSIONS) for name in sorted(set(speaker.values()))}
    features = {}
    for name, segments in alignment.segments.items():
        frames = (
            rng.normal(0, 2, (int(segments[-1][1] * RATE), DIMENSIONS)) + speakers[speaker[name]]
        )
        for start, end, phone in segments:
            vector = phones.setdefault(phone, rng.normal(size=DIMENSIONS))
            frames[int(start * RATE) : int(end * RATE)] += vector
        features[name] = torch.from_numpy(frames.astype(np.float32))
    return features


def main() -> None:
    """Print both scores."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=3.0, help="of speech (%(default)s)")
    minutes = parser.parse_args().minutes
    from fastabx import zerospeech_abx

    rng = np.random.default_rng(0)
    alignment = alignment_of(minutes, rng)
    speaker = {name: f"s{i % SPEAKERS}" for i, name in enumerate(alignment.segments)}
    features = features_of(alignment, speaker, rng)
    num_frames = {name: len(values) for name, values in features.items()}
    with tempfile.TemporaryDirectory() as folder:
        for name, values in features.items():
            torch.save(values, Path(folder) / f"{name}.pt")
        for kind, context in (("triphone", "same"), ("phoneme", "same"), ("phoneme", "any")):
            items = Path(folder) / f"{kind}.item"
            write_items(items, phone_tokens(alignment, speaker, kind)[0])
            spans = find_frames(read_items(items), num_frames)
            tables = score_layers(spans, lambda n: features[n][None], AbxConfig(context=context))
            for mode, table in tables.items():
                theirs = zerospeech_abx(
                    items,
                    folder,
                    max_size_group=None,
                    max_x_across=None,
                    speaker=mode,
                    context="any" if context == "any" else "within",
                    progress=False,
                )
                ours = float(table.errors()[0])
                print(
                    f"{kind}, {context} context, {mode}: {100 * ours:.6f} % here, "
                    f"{100 * theirs:.6f} % in fastabx, difference {100 * (ours - theirs):+.1e}"
                )


if __name__ == "__main__":
    main()
