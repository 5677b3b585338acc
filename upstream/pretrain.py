"""The pretraining job: recipe to data to model to fit.

A run folder says all that is needed to continue it.
"""

import contextlib
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mt4ssl_bench.clustering.kmeans import joint_digest, make_labels
from mt4ssl_bench.config import load, to_dict
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.frame_grid import frame_counts
from mt4ssl_bench.data.labels import CarriedLabels, LabelStore
from mt4ssl_bench.data.remote import is_url
from mt4ssl_bench.errors import ConfigError, TrainingError
from mt4ssl_bench.training.distributed import ALONE, World, joined, no_sync
from mt4ssl_bench.training.fit import Fit, FitReport, Hooks, Scaling, StepLoss
from mt4ssl_bench.training.run_folder import RunFolder
from mt4ssl_bench.upstream.batches import Batch, PretrainData
from mt4ssl_bench.upstream.checkpoints.checkpoint_file import KIND
from mt4ssl_bench.upstream.config import PretrainConfig, check
from mt4ssl_bench.upstream.encoder import EncoderLayer
from mt4ssl_bench.upstream.init_weights import start_from
from mt4ssl_bench.upstream.masking import draw_masks
from mt4ssl_bench.upstream.model import MT4SSL, Losses

LOGGER = logging.getLogger(__name__)
VALID_SEED = 0  # masks of the validation pass: the same in every run, so that losses compare
VALID_SECONDS = 600.0  # audio that one validation pass reads at most
FREE = (  # keys that a run may change on its way: how it is computed and looked at, not what
    "about",
    *(
        f"fit.{key}"
        for key in (
            "accumulate",
            "log_every",
            "save_every",
            "validate_every",
            "compile",
            "checkpointing",
        )
    ),
    *(f"data.{key}" for key in ("workers", "cache_hours", "max_unreadable")),
)


@dataclass
class Pretraining:
    """Everything that one run needs, opened and checked; run() trains."""

    config: PretrainConfig
    model: MT4SSL
    train: PretrainData
    valid: PretrainData
    digest: str
    world: World = ALONE
    net: nn.Module = field(
        init=False
    )  # the model, its gradients shared with other processes if there are any

    def __post_init__(self) -> None:
        """Join the model to its like in the other processes."""
        self.net = self.world.wrap(self.model, unused=self.config.encoder.layer_drop > 0)

    def loss(self, batch: Batch, step: int, number: int) -> StepLoss:
        """Return one batch's loss, its masks drawn from a generator that belongs to this batch of
        this update.
        """
        seed = (self.config.fit.seed, step, number)
        losses = self.forward(self.net, batch, seed, self.config.masking.clones)
        monitors = {
            f"{name}_{key}" if key == "accuracy" else key: value
            for name, extractor in self.model.named_extractors()
            for key, value in extractor.monitors.items()
        }
        return StepLoss(
            total=self.model.total(losses),
            count=losses.masked,
            sums=losses.sums,
            monitors=monitors,
            seconds=batch.seconds,
            ids=batch.ids,
        )

    def forward(self, net: nn.Module, batch: Batch, seed: tuple[int, ...], clones: int) -> Losses:
        """Return the losses of one batch under `clones` masks drawn from `seed`."""
        device = torch.device(self.world.device)
        batch = batch.to(device)
        frames: list[int] = frame_counts(batch.lengths).tolist()
        generator = np.random.default_rng(seed)
        masks = [
            draw_masks(frames, max(frames), self.config.masking, generator) for _ in range(clones)
        ]
        with autocast(self.config.fit.autocast, device):
            losses: Losses = net(
                batch.waveforms, batch.lengths, batch.labels, torch.cat(masks).to(device)
            )
        return losses

    def after_step(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        """Move the extractors and stop a collapsed run."""
        said = {
            k: v
            for _, extractor in self.model.named_extractors()
            for k, v in extractor.update(step).items()
        }
        if values and step >= self.config.collapse_step:
            for key, least in (
                ("target_var", self.config.min_target_var),
                ("pred_var", self.config.min_pred_var),
            ):
                if values.get(key, math.inf) < least:
                    raise TrainingError(
                        f"collapse at update {step}: {key} is {values[key]:.3g}, under {least}; "
                        "a slower teacher (targets.online.ema_start nearer 1) or a lower optim.lr "
                        "may help"
                    )
        return said

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:  # noqa: ARG002 - fit's signature
        """Return the validation losses per masked frame, under masks that are the same in every
        run.
        """
        rank, world = self.world.rank, self.world.size
        self.model.eval()
        names = [name for name, _ in self.model.named_extractors()]
        sums, masked = dict.fromkeys(names, 0.0), 0
        for number, batch in enumerate(self.valid(0, rank=rank, world=world)):
            losses = self.forward(self.model, batch, (VALID_SEED, number * world + rank), 1)
            sums = {name: sums[name] + losses.sums[name].item() for name in names}
            masked += losses.masked
        self.model.train()
        count, *totals = self.world.sum(masked, *sums.values())
        return {
            f"valid_{name}": total / max(count, 1)
            for name, total in zip(names, totals, strict=True)
        }

    def run(self, out: Path) -> FitReport:
        """Train, keeping checkpoint.pt, config.json and log.jsonl in `out`.

        Repeating it continues.
        """
        return Fit(
            self.model.train(),
            self.train.stream(rank=self.world.rank, world=self.world.size),
            self.loss,
            self.config.optim,
            self.config.fit,
            folder=RunFolder(
                out,
                {"kind": KIND, "config": to_dict(self.config), "corpus_digest": self.digest},
                free=[f"config.{key}" for key in FREE],
            ),
            hooks=Hooks(after_step=self.after_step, validate=self.validate),
            scaling=Scaling(
                world=self.world,
                no_sync=partial(no_sync, self.net),
                scaler=loss_scaler(self.config.fit.autocast, self.world.device),
            ),
            title=f"pretrain {out.name}",
        )()


def autocast(kind: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return the context of a forward pass: fit.autocast's precision for products, fp32 for targets
    and losses.
    """
    if kind == "auto":
        kind = "none" if device.type == "cpu" else "bf16"
    if kind == "none":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if kind == "bf16" else torch.float16)


def loss_scaler(kind: str, device: str) -> torch.amp.GradScaler:
    """Return the loss scaling of fp16, which begins at 128 as the official code's does.

    Others get an idle one.
    """
    return torch.amp.GradScaler(torch.device(device).type, init_scale=128.0, enabled=kind == "fp16")


def pretrain(recipe: str, *keys: str, out: str | Path, device: str = "auto") -> FitReport:
    """Pretrain a model by a recipe (a name or a .yaml file) and `a.b=c` keys.

    The same call continues it.

    Writes checkpoint.pt, config.json and log.jsonl into `out`. Labels for the offline targets are
    made when they are missing. Under torchrun, all processes train one model. Raises BenchError for
    a wrong recipe, key or corpus, before any long work.
    """
    if Path(out).exists() and not Path(out).is_dir():
        raise ConfigError(f"--out {out}: a file; expected a folder, or none yet")
    with joined(device) as world:
        return open_pretraining(load(PretrainConfig, recipe, keys), world=world).run(Path(out))


def open_pretraining(config: PretrainConfig, *, world: World = ALONE) -> Pretraining:
    """Open corpora and labels (made when missing) and build the model.

    Raises BenchError before any long work.
    """
    check(config)
    if not config.data.corpus:
        raise ConfigError("data.corpus: no corpus named; for example data.corpus=corpora/mine")
    corpora = [Corpus.open(path) for path in config.data.corpus]
    for corpus in corpora:  # a wrong split name must show before the labels are made
        corpus.cuts(config.data.train)
        corpus.cuts(config.data.valid)
    model = build_model(
        config, world.device
    )  # before the labels: weights to start from that do not fit show at once
    digest, labels = joint_digest(corpora), None
    if config.targets.offline.weight:
        labels = open_labels(config, corpora, digest, world)
    train, valid = (
        PretrainData(
            corpora,
            split,
            config.data,
            labels,
            normalized=config.frontend.normalize,
            seed=config.fit.seed,
            shuffle=split == config.data.train,
            enough=None if split == config.data.train else VALID_SECONDS,
        )
        for split in (config.data.train, config.data.valid)
    )
    LOGGER.info(
        "%.2f M parameters, %.1f h of training audio, %.1f min of validation audio",
        sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6,
        train.seconds / 3600,
        valid.seconds / 60,
    )
    return Pretraining(config, model, train, valid, digest, world)


def build_model(config: PretrainConfig, device: str) -> MT4SSL:
    """Return the model on `device` with its first weights, compiled if fit.compile says so."""
    torch.manual_seed(config.fit.seed)
    model = MT4SSL(config)
    if config.init:
        start_from(model, Path(config.init))
    model.checkpointing = model.encoder.checkpointing = config.fit.checkpointing
    if config.fit.compile:
        # student and teacher, training and not, with padding and without, all frames or the masked
        # ones: each is a form of its own, and torch would leave those beyond its limit uncompiled
        torch._dynamo.config.recompile_limit = 64  # noqa: SLF001 - where torch documents it
        for module in model.modules():
            if isinstance(module, EncoderLayer):
                module.compile(
                    dynamic=True
                )  # one layer's code serves all, of student and teacher, and any length
    return model.to(device)


def open_labels(
    config: PretrainConfig, corpora: list[Corpus], digest: str, world: World
) -> LabelStore | CarriedLabels:
    """Return the run's labels: the store that the recipe names, what all shards carry, or new ones
    of the corpora.
    """
    offline, data = config.targets.offline, config.data
    if offline.labels:
        return LabelStore(Path(offline.labels)).check(digest, offline.clusters)
    if all(corpus.info.labels for corpus in corpora):
        return CarriedLabels([corpus.info.labels for corpus in corpora], digest, offline.clusters)
    if remote := [corpus.where for corpus in corpora if is_url(corpus.where)]:
        raise ConfigError(
            f"{remote[0]}: its shards carry no labels; shard it with --labels, name "
            "targets.offline.labels, or set targets.offline.weight=0"
        )
    return make_labels(
        corpora, (data.train, data.valid), offline, out=None, seed=config.fit.seed, world=world
    )
