"""Heads at every layer, learning rate and seed, trained together on one reading of the features.

Shapes: L hidden states, B batch, T frames, D dimension, V outputs, K heads, F joined batches.
"""

import copy
import itertools
import json
import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from mt4ssl_bench.data.batches import Batches, Place, endless
from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.data.epoch_order import Places
from mt4ssl_bench.device import moved_rows
from mt4ssl_bench.downstream.clock import Stopwatch
from mt4ssl_bench.downstream.heads.run_heads import run_heads
from mt4ssl_bench.downstream.heads.side_by_side import backward, poisoned, serial
from mt4ssl_bench.downstream.layers.single_layers import read_one_layer
from mt4ssl_bench.downstream.task import Logits, Task
from mt4ssl_bench.downstream.training.choose_rate import choose, chosen
from mt4ssl_bench.downstream.training.head_run import HeadRun, restore, stored
from mt4ssl_bench.errors import TrainingError
from mt4ssl_bench.features.file import FeatureSet
from mt4ssl_bench.threads import side_by_side
from mt4ssl_bench.training.fit import Fit, FitConfig, Hooks, StepLoss
from mt4ssl_bench.training.run_folder import PassingFolder

LOGGER = logging.getLogger(__name__)
EVALUATION_BATCH = 32
# cuts, features (L, B, T, D) on the device, lengths (B,) on the host, which never waits for them
Batch = tuple[list[Cut], Tensor, Tensor]
Match = Callable[[Sequence[Cut], Tensor, Tensor], tuple[Tensor, Tensor]]


class Split:
    """The cuts of one split with their features.

    `draw` gives the places of the cuts that an epoch has; see Task.draw.
    """

    def __init__(
        self,
        cuts: Sequence[Cut],
        features: FeatureSet,
        *,
        pooled: bool,
        device: str,
        match: Match | None = None,
        draw: Callable[[Sequence[Cut], int], Places | None] | None = None,
    ) -> None:
        self.cuts, self.features, self.pooled, self.device = list(cuts), features, pooled, device
        self.match, self.draw = match, draw  # Task.match, Task.draw

    def batches(
        self, count: int, epoch: int = 0, skip: int = 0, *, seed: int = 0, shuffle: bool = False
    ) -> Iterator[Batch]:
        """Yield batches of `count` utterances of similar lengths."""
        draw = partial(self.draw, self.cuts) if self.draw else None
        make = Batches(self.cuts, list, count=count, seed=seed, shuffle=shuffle, draw=draw)
        batches, own = itertools.tee(make(epoch, skip))
        names = ([cut.id for cut in cuts] for cuts in own)
        # of means, one of the K crops is read, as if it were the only frame
        crop = (_any_crop if shuffle else _first_crop) if self.pooled else None
        stream = self.features.at(epoch).stream(names, self.device, crop)
        for (x, lengths), cuts in zip(stream, batches, strict=False):
            yield cuts, *(self.match(cuts, x, lengths) if self.match else (x, lengths))


def _any_crop(utterances: int, crops: int) -> Tensor:
    return torch.randint(0, crops, (utterances,))


def _first_crop(utterances: int, crops: int) -> Tensor:  # noqa: ARG001 - see FeatureSet.stream
    return torch.zeros(utterances, dtype=torch.long)


class Sweep:
    """The heads of one task on one upstream; run() returns that of the best rate's first seed.

    Args:
        task: With its units.
        num_layers: Of the upstream.
        dim: Of the upstream.
        device: Torch device.
        title: Names the row in messages.
        only: Numbers of the heads to train, if others are trained elsewhere.
    """

    def __init__(
        self,
        task: Task,
        num_layers: int,
        dim: int,
        *,
        device: str,
        title: str = "",
        only: Sequence[int] | None = None,
    ) -> None:
        self.task, self.config, self.metric, self.title = task, task.config, task.choice, title
        self.runs: list[HeadRun] = []
        self.executor: Executor | None = None  # of heads that train side by side
        layers: Sequence[int | None] = self.config.single_layers(num_layers) or [None]
        for layer in layers:  # those of one layer side by side, as run_heads() groups them
            for seed in self.config.seeds:
                torch.manual_seed(seed)
                first = task.head(num_layers, dim)  # equal at every layer and rate
                if layer is not None:
                    read_one_layer(first, layer)
                self.runs += [  # copied on the host: cuDNN wants an LSTM's weights in one buffer
                    HeadRun(lr, seed, copy.deepcopy(first).to(device), layer)
                    for lr in self.config.rates
                ]
        self.runs = self.runs if only is None else [self.runs[number] for number in only]
        self.heads = nn.ModuleList(run.head for run in self.runs)

    @property
    def active(self) -> list[HeadRun]:
        """The runs that are still trained."""
        return [run for run in self.runs if run.active]

    def run(self, train: Split, valid: Split, folder: PassingFolder | None = None) -> HeadRun:
        """Train all heads and return the first seed's run at the best rate, with its best weights.

        Raises:
            TrainingError: If no rate has a score of every seed.
            KeyboardInterrupt: See train_sweeps().
        """
        train_sweeps([self], [Splits(train, valid)], folder, title=self.title)
        trials = choose([[run.trial() for run in self.runs]], self.metric, self.title)
        best = self.runs[chosen(trials)[0]]
        best.load_best()
        return best

    def losses(self, runs: Sequence[HeadRun], batch: Batch) -> Tensor:
        """Return the mean loss of each run (K,); of F joined() batches, each is for K / F runs."""
        cuts, features, lengths = batch
        heads, own = [run.head for run in runs], [self.task.target(cut) for cut in cuts]
        if self.executor:
            return backward(self.executor, self.task.loss, heads, features, lengths, own)
        own = moved_rows(own, features.device)
        logits, _ = run_heads(heads, features, lengths)  # (K, B, ..., V)
        each, size = len(runs) // lengths.shape[:-1].numel(), lengths.shape[-1]
        targets = [x for n in range(0, len(own), size) for x in own[n : n + size] * each]
        counts = lengths.reshape(-1, 1, size).expand(-1, each, -1).flatten()
        rows = self.task.loss(logits.flatten(0, 1), counts, targets)
        return rows.view(logits.shape[:2]).mean(1)

    def give_up(self, run: HeadRun, step: int) -> None:
        """Mark a run as diverged."""
        if not run.diverged:  # a loss that is NaN gives gradients that are, too
            layer = "" if run.layer is None else f"layer {run.layer}, "
            about = self.title, layer, run.lr, run.seed, step
            LOGGER.info("%s: %slr %g, seed %d diverged at update %d", *about)
        run.diverged = True

    def look(self, test: Split, step: int) -> None:
        """Keep the heads' scores on test, if this validation is one of Task.looks."""
        config, looks = self.config, self.task.looks
        before = (step - 1) // config.validate_every * config.validate_every
        if looks * step // config.steps == looks * before // config.steps:
            return
        runs = self.active
        answers, cuts = self.decode([run.head for run in runs], test)
        for run, hypotheses in zip(runs, answers, strict=True):
            if hypotheses is not None:
                run.look(self.task.answers(cuts, hypotheses), step)

    def validate(self, valid: Split, step: int) -> dict[str, float]:
        """Score the heads on valid and return the scores; keep the best weights.

        Raises:
            TrainingError: If valid cannot be scored at all.
        """
        values, runs = {}, self.active
        answers, cuts = self.decode([run.head for run in runs], valid)
        for run, hypotheses in zip(runs, answers, strict=True):
            if hypotheses is None:
                self.give_up(run, step)
                continue
            value = self.task.measure(cuts, hypotheses)
            seed = f", seed {run.seed}" if len(self.config.seeds) > 1 else ""
            layer = "" if run.layer is None else f"layer {run.layer}, "
            values[f"{layer}lr {run.lr:g}{seed}"] = value
            if math.isfinite(value) and (run.state is None or self.metric.better(value, run.best)):
                run.keep(value, step)
            else:
                run.waited += 1
                run.stopped = 0 < self.config.patience <= run.waited
        # the metric is NaN, the heads are not
        if self.active and all(run.state is None for run in self.runs):
            raise TrainingError(
                f"{self.title}: {self.metric.label} cannot be measured on any of {len(cuts)} "
                f"utterances of valid at update {step}; expected one with speech, and a learning "
                "rate that does not diverge"
            )
        return values

    @torch.no_grad()
    def logits(self, head: nn.Module, split: Split) -> Iterator[Logits]:
        """Yield the logits of one head on a split, in the order of decode()."""
        head.eval()
        for cuts, features, lengths in split.batches(EVALUATION_BATCH):
            yield cuts, *head(features, lengths)

    @torch.no_grad()
    def decode(
        self, heads: Sequence[nn.Module], split: Split
    ) -> tuple[list[list[str] | None], list[Cut]]:
        """Return each head's hypotheses (None if logits are not finite), and the cuts."""
        together = nn.ModuleList(heads).eval()
        hypotheses: list[list[str]] = [[] for _ in heads]
        finite = torch.ones(len(heads), dtype=torch.bool, device=split.device)
        decoded: list[Cut] = []
        for cuts, features, lengths in split.batches(EVALUATION_BATCH):
            logits, counts = run_heads(heads, features, lengths)
            finite &= logits.isfinite().flatten(1).all(1)
            for own, rows in zip(hypotheses, logits, strict=True):
                own.extend(self.task.hypotheses(cuts, rows, counts, test=False))
            decoded += cuts
        together.train()
        sound = zip(hypotheses, finite.tolist(), strict=True)
        return [own if good else None for own, good in sound], decoded


class Splits(NamedTuple):
    """The splits of a sweep: to train on, to score its heads, and for Task.looks.

    `name` stands before its scores in the log, beside those of other sweeps.
    """

    train: Split
    valid: Split
    test: Split | None = None
    name: str = ""


def train_sweeps(
    sweeps: Sequence[Sweep],
    splits: Sequence[Splits],
    folder: PassingFolder | None = None,
    *,
    title: str,
) -> float:
    """Train all heads of sweeps of one recipe, in the same updates; return the seconds.

    An update takes a batch of each sweep, the one that it would take by itself.

    Args:
        sweeps: Several have pooled linear heads.
        splits: Of each sweep.
        folder: Keeps their state during training: an interrupted call continues from it.
        title: Names the training in messages.

    Raises:
        TrainingError: If valid cannot be scored at all.
        KeyboardInterrupt: If a stop was requested; the state is saved.
    """
    training, apart = _Training(sweeps, splits), serial(sweeps[0].heads[0])
    try:
        with side_by_side(len(training.runs)) if apart else nullcontext() as executor:
            for sweep in sweeps:
                sweep.executor = executor
            training.fit(folder, title)
    except _EnoughError:
        patience = sweeps[0].config.patience
        LOGGER.info("%s: no head is left to train (patience=%d)", title, patience)
    return training.watch.seconds


class _Training:
    """One Fit over the heads of several sweeps."""

    def __init__(self, sweeps: Sequence[Sweep], splits: Sequence[Splits]) -> None:
        self.sweeps, self.splits, self.watch = sweeps, splits, Stopwatch()
        self.owners = [sweep for sweep in sweeps for _ in sweep.runs]
        self.runs = [run for sweep in sweeps for run in sweep.runs]
        self.units = [json.dumps(sweep.task.state()) for sweep in sweeps]
        self.places: list[Place] = []  # of each sweep's batches

    def fit(self, folder: PassingFolder | None, title: str) -> None:
        config = self.sweeps[0].config
        report = Fit(
            nn.ModuleList(run.head for run in self.runs),
            self._batches,
            self._loss,
            self.sweeps[0].task.optim(),
            FitConfig(
                steps=config.steps,
                seed=config.seeds[0],
                accumulate=config.accumulate,
                log_every=config.steps,
                validate_every=config.validate_every,
            ),
            groups=[{"params": list(run.head.parameters()), "lr": run.lr} for run in self.runs],
            folder=folder,
            hooks=Hooks(
                validate=self._validate,
                diverged=self._diverged,
                state=self._state,
                restore=self._restore,
            ),
            title=title,
        )()
        if not report.finished:
            raise KeyboardInterrupt

    def _batches(self, place: Place) -> Iterator[tuple[Place, list[Batch]]]:
        config = self.sweeps[0].config
        self.places = self.places or [place for _ in self.sweeps]
        streams = []
        for split, start in zip(self.splits, self.places, strict=True):
            batches = partial(split.train.batches, config.batch, seed=config.seeds[0], shuffle=True)
            streams.append(endless(batches)(start))
        while True:
            drawn, taken = torch.get_rng_state(), []
            for number, stream in enumerate(streams):
                torch.set_rng_state(drawn)  # each draws the crops that it would draw by itself
                self.places[number], batch = next(stream)
                taken.append(batch)
            yield self.places[0], taken

    def _loss(self, batches: list[Batch], step: int, micro: int) -> StepLoss:  # noqa: ARG002
        # heads of equal tasks, on batches of equal shapes, are one problem
        alike: dict[tuple[object, ...], list[int]] = {}
        for number, sweep in enumerate(self.sweeps):
            if layers := [run.layer for run in sweep.active]:
                key = self.units[number], batches[number][1].shape, *layers
                alike.setdefault(key, []).append(number)
        losses = []
        for numbers in alike.values():
            runs = [run for number in numbers for run in self.sweeps[number].active]
            batch = joined([batches[number] for number in numbers])
            losses.append(self.sweeps[numbers[0]].losses(runs, batch))
        return StepLoss(total=poisoned(torch.cat(losses)).sum(), count=1)

    def _validate(self, step: int) -> dict[str, float]:
        values: dict[str, float] = {}
        for sweep, (_, valid, test, name) in zip(self.sweeps, self.splits, strict=True):
            if not sweep.active:
                continue
            if test is not None:
                sweep.look(test, step)
            scores = sweep.validate(valid, step)
            values |= {f"{name}{key}": value for key, value in scores.items()}
        self._go_on()
        return values

    def _diverged(self, step: int, groups: Collection[int]) -> None:
        for number in groups:
            self.owners[number].give_up(self.runs[number], step)
        self._go_on()

    def _go_on(self) -> None:
        if not any(run.active for run in self.runs):
            raise _EnoughError

    def _state(self) -> dict[str, object]:
        places = [list(place) for place in self.places]
        return {"trials": stored(self.runs), "seconds": self.watch.seconds, "places": places}

    def _restore(self, stored: Mapping[str, object]) -> None:
        restore(self.runs, stored)
        self.watch.earlier = cast("float", stored["seconds"])
        # of one sweep, earlier revisions stored only Fit's
        places = cast("list[tuple[int, int]]", stored.get("places", []))
        self.places = [Place(*place) for place in places]


def joined(batches: Sequence[Batch]) -> Batch:
    """Return F batches of one shape as one: (F, L, B, T, D), (F, B); a single one as it is."""
    if len(batches) == 1:
        return batches[0]
    cuts, features, lengths = zip(*batches, strict=True)
    return [cut for own in cuts for cut in own], torch.stack(features), torch.stack(lengths)


class _EnoughError(Exception):
    """No head is trained any more."""
