r"""Cost of tasks on pooled features: passes, five learning rates against one, folds against one.

    python benchmarks/pooled_speed.py random:mt4ssl_tiny keyword=corpora/commands \
        emotion=corpora/emodb

Utterances are counted where the upstream gets them. Training is timed from stored features, in CPU
seconds of this process (with one thread by default), so that other processes disturb it less than a
wall clock; each case takes the fastest of several alternating runs. Aims: one pass, five rates for
at most 2 x one. Folds train in the same updates, but each on batches of its own.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.downstream.clock import Clock
from mt4ssl_bench.downstream.job import Fold, Job
from mt4ssl_bench.downstream.plan import plan
from mt4ssl_bench.downstream.training.frozen import FrozenTraining
from mt4ssl_bench.encoders.load import load_upstream
from mt4ssl_bench.encoders.protocol import Features, Upstream
from mt4ssl_bench.features.forward_pass import padding_is_safe
from mt4ssl_bench.features.store import FeatureStore
from mt4ssl_bench.shared_work import finish

RATES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3)


class Counted:
    """An upstream that counts the waveforms that it gets."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream, self.waveforms = upstream, 0
        self.name, self.fingerprint = upstream.name, upstream.fingerprint
        self.num_layers, self.dim, self.stride = upstream.num_layers, upstream.dim, upstream.stride
        self.parameters = upstream.parameters

    def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
        """See Upstream."""
        self.waveforms += len(waveforms)
        return self.upstream.extract(waveforms, lengths)


class Bench:
    """One task on one corpus."""

    def __init__(self, model: Counted, task: str, corpus: Corpus, root: Path) -> None:
        self.model, self.task, self.corpus, self.root = model, task, corpus, root
        self.keys: list[str] = []
        self.runs = 0

    def job(self, rates: Sequence[float], steps: int) -> Job:
        """Return the job with some rates; it validates once, at the end."""
        keys = [f"sweep={list(rates)}", f"steps={steps}", f"validate_every={steps}", *self.keys]
        return plan(self.task, self.corpus, keys)

    def train(self, job: Job, folds: Sequence[Fold]) -> float:
        """Train from nothing but the store; return the CPU milliseconds of an update."""
        self.runs += 1
        began = time.process_time()
        training = FrozenTraining(
            self.model,
            job,
            folds,
            source="",
            folder=self.root / f"{self.task}-{self.runs}",
            store=FeatureStore(self.root / "store", job.config.store),
            device="cpu",
            clock=Clock(),
        )
        finish(training.train())
        training.result()
        return 1e3 * (time.process_time() - began) / job.training.steps

    def passes(self) -> float:
        """Return how often the upstream gets an utterance that training, valid and test read."""
        job = self.job(RATES, 1)
        crops = {role: job.config.crops_of(role) for role in job.roles}
        counts = {role: each.count if each and each.seconds else 1 for role, each in crops.items()}
        # with folds, every role has a part of the same utterances
        roles = ["test"] if job.kind.folds else job.roles
        needed = sum(len(job.cuts(role)) * counts[role] for role in roles)
        before = self.model.waveforms
        self.train(job, job.folds())
        return (self.model.waveforms - before) / needed

    def report(self, steps: int, repeats: int) -> None:
        """Print the passes and both ratios."""
        print(f"{self.task}: {self.passes():.2f} passes over its audio", flush=True)
        one, five = self.job(RATES[:1], steps), self.job(RATES, steps)
        # without its name a fold is a training of its own, from features of its own cuts
        cases = {
            name: (job, [replace(job.folds()[0], name="")])
            for name, job in (("one rate", one), ("five rates", five))
        }
        if five.kind.folds:
            cases["all folds"] = (five, five.folds())
        times = dict.fromkeys(cases, float("inf"))
        for _ in range(repeats):
            for name, (job, folds) in cases.items():
                times[name] = min(times[name], self.train(job, folds))
        shown = ", ".join(f"{name} {value:.2f} ms" for name, value in times.items())
        print(f"  an update: {shown}")
        print(f"  five rates: {times['five rates'] / times['one rate']:.2f} x one")
        if "all folds" in times:
            count = len(five.folds())
            print(f"  {count} folds: {times['all folds'] / times['five rates']:.2f} x one")


def main() -> None:
    """Measure every task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("upstream", help="as 'mt4ssl-bench evaluate' takes it")
    parser.add_argument("corpora", nargs="+", metavar="TASK=CORPUS", help="prepared corpora")
    parser.add_argument("--labels", help="of intent, for a corpus without SUPERB's three")
    parser.add_argument("--steps", type=int, default=200, help="updates of each run")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each case")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = Counted(load_upstream(options.upstream, device="cpu"))
    padding_is_safe(model)  # runs the model on probes, which are not counted
    for argument in options.corpora:
        task, _, corpus = argument.partition("=")
        with tempfile.TemporaryDirectory(prefix="pooled_speed_") as root:
            bench = Bench(model, task, Corpus.open(corpus), Path(root))
            if task == "intent" and options.labels:
                bench.keys.append(f"labels={options.labels}")
            bench.report(options.steps, options.repeats)


if __name__ == "__main__":
    main()
