"""The pretraining job: recipe, data, model and training loop."""

import logging
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mt4ssl_bench.data.corpus import joint_digest
from mt4ssl_bench.device import moved
from mt4ssl_bench.errors import ConfigError, TrainingError
from mt4ssl_bench.results.provenance import environment
from mt4ssl_bench.settings import Json
from mt4ssl_bench.training.distributed import ALONE, World, no_sync
from mt4ssl_bench.training.fit import Fit, FitReport, Hooks, Scaling, StepLoss
from mt4ssl_bench.training.launch import check_alike, check_shared, joined
from mt4ssl_bench.training.monitors import TargetStatistics, Warnings
from mt4ssl_bench.training.precision import autocast, loss_scaler
from mt4ssl_bench.training.run_folder import RunFolder
from mt4ssl_bench.training.track import check_tracker
from mt4ssl_bench.upstream.batches import Batch, PretrainData
from mt4ssl_bench.upstream.checkpoints.checkpoint_file import KIND
from mt4ssl_bench.upstream.checkpoints.init_weights import start_from
from mt4ssl_bench.upstream.checkpoints.shipped import located
from mt4ssl_bench.upstream.config import PretrainConfig, check
from mt4ssl_bench.upstream.encoder import compile_layers, lacking, pays
from mt4ssl_bench.upstream.masking import MaskedFrames, draw_masks
from mt4ssl_bench.upstream.model import MT4SSL, Losses, padding_mask
from mt4ssl_bench.upstream.offline_labels import open_corpora, open_labels
from mt4ssl_bench.upstream.recipe import load_config, to_stored
from mt4ssl_bench.upstream.valid_abx import ValidAbx, open_valid_abx

LOGGER = logging.getLogger(__name__)
# of the masks in validation: the same in every run of one data.batch_seconds, whose losses compare
VALID_SEED = 0
VALID_SECONDS = 600.0  # audio of one validation at most
FREE = (  # keys that may change when a run continues: they do not affect what is learned
    "about",
    "abx_tokens",
    *(f"fit.{how}" for how in ("accumulate", "compile", "checkpointing")),
    *(f"fit.{often}_every" for often in ("log", "save", "validate")),
    *(f"data.{how}" for how in ("workers", "cache_hours", "max_unreadable")),
)


@dataclass
class Pretraining:
    """One run, opened and checked; run() trains."""

    config: PretrainConfig
    model: MT4SSL
    train: PretrainData
    valid: PretrainData
    digest: str  # of the corpora
    world: World = ALONE
    abx: ValidAbx | None = None

    def __post_init__(self) -> None:
        """Wrap the model, so that several processes share its gradients."""
        self.net = self.world.wrap(self.model, unused=self.config.encoder.layer_drop > 0)
        self.statistics = TargetStatistics(self.config.fit.accumulate)
        warmup = round(self.config.optim.phases[0] * self.config.fit.steps)
        self.warn = Warnings(self.config.encoder.dim, warmup)

    def loss(self, batch: Batch, step: int, number: int) -> StepLoss:
        """Return the loss of batch `number` of update `step`."""
        # masks belong to the batch, not to the process: any number of processes draws the same
        seed = (self.config.fit.seed, step, number)
        clones = self.config.masking.clones
        losses = self.forward(self.net, batch, seed, clones, self.statistics)
        return StepLoss(
            total=self.model.total(losses, step),
            count=losses.masked,
            sums=losses.sums,
            monitors=self._monitors(),
            seconds=batch.seconds,
            ids=batch.ids,
        )

    def forward(
        self,
        net: nn.Module,
        batch: Batch,
        seed: tuple[int, ...],
        clones: int,
        statistics: TargetStatistics,
    ) -> Losses:
        """Return the losses of one batch, whose targets are added to `statistics`.

        Args:
            net: The model, or what wraps it.
            batch: Of any size.
            seed: Of the masks.
            clones: Masks per utterance.
            statistics: Get the targets at the masked frames.
        """
        device = torch.device(self.world.device)
        lengths = self.config.frontend.frame_counts(batch.lengths)
        counts: list[int] = lengths.tolist()
        generator = np.random.default_rng(seed)
        masks = [
            draw_masks(counts, max(counts), self.config.masking, generator) for _ in range(clones)
        ]
        masked = MaskedFrames.of(torch.cat(masks), len(counts))
        padding, labels = padding_mask(lengths), batch.labels
        with autocast(self.config.fit.autocast, device):
            losses: Losses = net(
                moved(batch.waveforms, device),
                None if padding is None else moved(padding, device),
                None if labels is None else moved(labels, device),
                MaskedFrames(*(moved(each, device) for each in masked)),
            )
        at = None if labels is None else labels[masked.row, masked.time]
        statistics.add(at, losses.targets)
        return losses

    def _monitors(self) -> dict[str, Tensor]:
        return {
            f"{name}_{key}": value
            for name, extractor in self.model.named_extractors()
            for key, value in extractor.monitors.items()
        }

    def after_step(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        """Update the extractors; return their values and those of the statistics to log.

        Raises:
            TrainingError: If the logged `values` show that an extractor has collapsed.
        """
        limits = {"target_var": self.config.min_target_var, "pred_var": self.config.min_pred_var}
        extra: dict[str, float] = {}
        if values:
            extra |= self.statistics.take(self.world)
            self.warn(step, {**values, **extra})
        for name, extractor in self.model.named_extractors():
            extra |= {f"{name}_{key}": value for key, value in extractor.update(step).items()}
            for key, least in limits.items():
                value = values.get(f"{name}_{key}", math.inf)
                if value < least and step >= self.config.collapse_step:
                    raise TrainingError(
                        f"collapse at update {step}: {name}_{key} is {value:.3g}, under {least}; "
                        "a lower optim.lr or a slower teacher (targets.online.ema_start nearer 1) "
                        "may help"
                    )
        return extra

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:  # noqa: ARG002 - fit's signature
        """Return the validation losses per masked frame, and the ABX of each layer if asked for.

        Masks are the same in every run.
        """
        rank, world = self.world.rank, self.world.size
        sums, masked, statistics = Counter[str](), 0, TargetStatistics()
        self.model.eval()
        for number, batch in enumerate(self.valid(0, rank=rank, world=world)):
            # self.model: the processes may have unequal numbers of batches
            seed = VALID_SEED, number * world + rank
            made = self.forward(self.model, batch, seed, 1, statistics)
            sums.update({name: total.item() for name, total in made.sums.items()})
            monitors = self._monitors().items()
            sums.update({name: value.item() * made.masked for name, value in monitors})
            masked += made.masked
        scores = self.abx(self.model, self.world.device) if self.abx else {}
        self.model.train()
        names = max(self.world.gather(list(sums)), key=len)  # a process may have no batch
        count, *totals = self.world.sum(masked, *(sums[name] for name in names))
        means = {name: total / max(count, 1) for name, total in zip(names, totals, strict=True)}
        values = {**means, **statistics.take(self.world), **scores}
        return {f"valid_{name}": value for name, value in values.items()}

    def run(self, out: Path) -> FitReport:
        """Train, or continue; writes checkpoint.pt, config.json and log.jsonl into `out`."""
        config = to_stored(self.config)
        free = [f"config.{key}" for key in FREE]
        meta: dict[str, Json] = {"kind": KIND, "config": config, "corpus_digest": self.digest}
        if self.train.labels is not None:
            meta["labels"] = self.train.labels.identity
        return Fit(
            self.model.train(),
            self.train.stream(rank=self.world.rank, world=self.world.size),
            self.loss,
            self.config.optim,
            self.config.fit,
            folder=RunFolder(out, meta, free=free, track=self.config.fit.track),
            hooks=Hooks(after_step=self.after_step, validate=self.validate),
            scaling=Scaling(
                world=self.world,
                no_sync=partial(no_sync, self.net),
                scaler=loss_scaler(self.config.fit.autocast, self.world.device),
            ),
            title=f"pretrain {out.name}",
        )()


def pretrain(recipe: str, *keys: str, out: str | Path, device: str = "auto") -> FitReport:
    """Pretrain a model; the same call continues an interrupted run.

    Missing labels are created. Under torchrun, all processes train one model.

    Args:
        recipe: A recipe's name or a .yaml file.
        keys: `a.b=c` keys that differ from the recipe.
        out: Folder that gets checkpoint.pt, config.json and log.jsonl.
        device: A torch device, or "auto" for the first available of cuda, mps and cpu.

    Raises:
        BenchError: For a wrong recipe, key or corpus, before any long computation.
    """
    if Path(out).exists() and not Path(out).is_dir():
        raise ConfigError(f"--out {out}: a file; expected a folder, or none yet")
    with joined(device) as world:
        config = check(load_config(recipe, keys))  # before a folder is made
        check_shared(Path(out), world)
        begun = (Path(out) / "checkpoint.pt").exists()
        return open_pretraining(config, world=world, begun=begun).run(Path(out))


def open_pretraining(
    config: PretrainConfig, *, world: World = ALONE, begun: bool = False
) -> Pretraining:
    """Open corpora and labels (created if they are missing) and build the model.

    Args:
        config: The recipe.
        world: The processes.
        begun: Whether the weights will come from a checkpoint of this run, not from `init`.

    Raises:
        BenchError: Before any long computation.
    """
    check_tracker(config.fit.track)
    corpora = open_corpora(check(config))
    for corpus in corpora:  # a wrong name of a split shows before labels are created
        corpus.cuts(config.data.train)
        corpus.cuts(config.data.valid)
    count = config.abx_tokens
    stride = config.frontend.stride
    abx = open_valid_abx(corpora, config.data.valid, count, stride) if count else None
    digest, labels = joint_digest(corpora), None
    made_with = environment()
    check_alike(
        {
            "config": to_stored(config),
            "corpora": digest,
            "git": made_with["git"],
            "versions": made_with["versions"],
        },
        world,
    )
    # before labels: unusable `init` weights show at once
    model = build_model(config, world.device, begun=begun)
    if any(extractor.reads_labels for _, extractor in model.named_extractors()):
        labels = open_labels(config, corpora, digest, world)
    data, frontend = config.data, config.frontend
    split = partial(
        PretrainData,
        corpora,
        config=data,
        labels=labels,
        normalized=frontend.normalize,
        stack=frontend.stack,
        seed=config.fit.seed,
    )
    train = split(data.train)
    valid = split(data.valid, shuffle=False, enough=VALID_SECONDS)
    LOGGER.info(
        "%.2f M parameters, %.1f h of training audio, %.1f min of validation audio",
        sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6,
        train.seconds / 3600,
        valid.seconds / 60,
    )
    return Pretraining(config, model, train, valid, digest, world, abx)


def build_model(config: PretrainConfig, device: str, *, begun: bool = False) -> MT4SSL:
    """Return the model on `device`, compiled as fit.compile says.

    Its weights are the initial ones, without those of `init` if it is `begun`.
    """
    torch.manual_seed(config.fit.seed)
    model = MT4SSL(config)
    if config.init and not begun:
        start_from(model, located(config.init))
    model.checkpointing = model.encoder.checkpointing = config.fit.checkpointing
    if config.fit.compile and (missing := lacking(device)):
        raise ConfigError(f"fit.compile=true: torch.compile() needs {missing}")
    if config.fit.compile or (config.fit.compile is None and pays(config.encoder, device)):
        compile_layers(model, fused=device.startswith("cuda"))
    return model.to(device)
