"""What storing costs in accuracy: phoneme error rates from features kept at each precision, and from other batches.

    python benchmarks/store_precision.py runs/mt4ssl_tiny corpora/fsdd_strings [KEY=VALUE]...

Differences are to fp32; the protocol asks for less than 0.2 % absolute.
"""

import sys
import tempfile
from pathlib import Path

from mt4ssl_bench import evaluate, passes
from mt4ssl_bench.store import entries


def main(upstream: str, corpus: str, *keys: str) -> None:
    exact = None
    batches = passes.BATCH_SECONDS
    with tempfile.TemporaryDirectory() as folder:
        for precision, seconds in (
            ("fp32", batches),
            ("fp32", batches / 4),
            ("fp16", batches),
            ("bf16", batches),
            ("int8", batches),
        ):
            passes.BATCH_SECONDS = seconds
            out = Path(folder) / f"{precision}-{seconds:g}"
            outcome = evaluate(
                [upstream], ["phoneme"], corpus, out=out, overrides=[f"store.precision={precision}", *keys]
            )
            if outcome.failures:
                sys.exit(outcome.failures[0])
            per = outcome.results[0].metrics["per"]
            size = sum(entry.bytes for entry in entries(out / "store"))
            exact = per.value if exact is None else exact
            print(
                f"{precision}, batches of {seconds:3.0f} s: PER {per.value:.2f} [{per.low:.2f}, {per.high:.2f}], "
                f"{per.value - exact:+.2f}, {size / 1e6:.1f} MB",
                flush=True,
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
