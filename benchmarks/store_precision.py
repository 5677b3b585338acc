"""Phoneme error rates from features stored at each precision, and from other batches.

    python benchmarks/store_precision.py runs/mt4ssl_tiny corpora/fsdd_strings [KEY=VALUE]...

Two numbers each, and how far they are from fp32: of one head, trained on fp32, reading the others:
what precision does; and of a head trained on them: what precision does, and how far training
carries the smallest difference.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.downstream.job import ROLES
from mt4ssl_bench.downstream.plan import plan
from mt4ssl_bench.downstream.training.sweep import Split, Sweep
from mt4ssl_bench.encoders.load import load_upstream
from mt4ssl_bench.features import forward_pass
from mt4ssl_bench.features.store import FeatureStore, StoreConfig, entries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("upstream", help="as evaluate names it")
    parser.add_argument("corpus", help="a prepared corpus with phones")
    parser.add_argument("keys", nargs="*", metavar="KEY=VALUE", help="of the recipe phoneme")
    options = parser.parse_args()
    model, opened = load_upstream(options.upstream), Corpus.open(options.corpus)
    forward = forward_pass.Pass(model)
    job = plan("phoneme", opened, options.keys)
    task = job.kind(job.config)
    cuts = {role: job.cuts(role) for role in ROLES}
    task.fit_units(cuts["train"])
    head, exact, seconds = None, None, 80.0
    for precision, batch in (
        ("fp32", seconds),
        ("fp32", seconds / 4),
        ("fp16", seconds),
        ("bf16", seconds),
        ("int8", seconds),
    ):
        forward_pass.BATCH_SECONDS = batch
        with tempfile.TemporaryDirectory() as folder:
            store = FeatureStore(Path(folder), StoreConfig(precision=precision))
            splits = {
                role: Split(c, store.features(forward, "-", role, c), pooled=False, device="cpu")
                for role, c in cuts.items()
            }
            size = sum(entry.bytes for entry in entries(Path(folder)))
            sweep = Sweep(task, model.num_layers, model.dim, device="cpu", title=precision)
            own = sweep.run(splits["train"], splits["valid"]).head
            head = head or own

            def per(one: torch.nn.Module) -> float:
                # called here
                (hypotheses,), members = sweep.decode([one], splits["test"])  # noqa: B023
                assert hypotheses is not None  # noqa: S101
                return float(task.measure(members, hypotheses))

            found = per(head), per(own)
            exact = exact or found
            print(
                f"{precision}, batches of {batch:.0f} s: {size / 1e6:.1f} MB; PER of the fp32 head "
                f"{found[0]:.2f} ({found[0] - exact[0]:+.2f}), of its own {found[1]:.2f} "
                f"({found[1] - exact[1]:+.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
