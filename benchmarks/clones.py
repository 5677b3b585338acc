"""Processor time to one validation loss, for masking.clones = 1, 2 and 4.

    python benchmarks/clones.py CORPUS [--recipe mt4ssl_tiny] [--seconds 300] [--clones 1 2 4]

Each setting trains the same model on the same audio for the same processor time (time.process_time,
so that other work on the machine counts little), with validation under one mask in all of them. The
loss to reach is the best that every setting reached; prints when each reached it and its updates
per second. Labels are made before the measured time.
"""

import argparse
import contextlib
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from mt4ssl_bench.config import load
from mt4ssl_bench.upstream.config import PretrainConfig
from mt4ssl_bench.upstream.pretrain import open_pretraining

EVERY = 50  # updates between validations


class TimeUpError(Exception):
    """The processor time is spent."""


def curve(arguments: argparse.Namespace, clones: int) -> tuple[list[tuple[float, float]], int]:
    """(processor seconds in training, validation loss) of one run, and its updates."""
    keys = [f"data.corpus={arguments.corpus}", f"masking.clones={clones}", "data.workers=0"]
    keys += [f"fit.validate_every={EVERY}", "fit.save_every=1000000"]
    job = open_pretraining(load(PretrainConfig, arguments.recipe, keys))
    points: list[tuple[float, float]] = []
    steps, looking, began = 0, 0.0, time.process_time()
    validate = job.validate

    def look(step: int) -> dict[str, float]:
        nonlocal steps, looking
        spent = time.process_time() - began - looking
        started = time.process_time()
        found = validate(step)
        points.append((spent, found["valid_offline"] + found["valid_online"]))
        steps, looking = step, looking + time.process_time() - started
        if spent > arguments.seconds:
            raise TimeUpError
        return found

    job.validate = look  # type: ignore[method-assign]
    with TemporaryDirectory() as folder, contextlib.suppress(TimeUpError):
        job.run(Path(folder) / "run")
    return points, steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--recipe", default="mt4ssl_tiny")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--clones", type=int, nargs="*", default=[1, 2, 4])
    arguments = parser.parse_args()
    curves = {clones: curve(arguments, clones) for clones in arguments.clones}
    goal = max(min(loss for _, loss in points) for points, _ in curves.values())
    first = {
        c: next(spent for spent, loss in points if loss <= goal)
        for c, (points, _) in curves.items()
    }
    print(
        f"{arguments.recipe}, {arguments.corpus.name}: processor seconds to a validation loss of "
        f"{goal:.3f}"
    )
    for clones, (points, steps) in curves.items():
        print(
            f"clones {clones}: {first[clones]:.0f} s, ratio "
            f"{first[clones] / first[arguments.clones[0]]:.2f}; {steps / points[-1][0]:.2f} "
            f"updates a second, {points[-1][1]:.3f} after {points[-1][0]:.0f} s"
        )


if __name__ == "__main__":
    main()
