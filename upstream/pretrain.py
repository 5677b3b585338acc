"""The pretraining job: recipe to data to model to fit; a run folder says all that is needed to continue it."""

import contextlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mt4ssl_bench.config import to_dict
from mt4ssl_bench.corpus import Corpus
from mt4ssl_bench.errors import ConfigError, TrainingError
from mt4ssl_bench.features import pick_device
from mt4ssl_bench.training import Fit, FitReport, StepLoss
from mt4ssl_bench.upstream.config import PretrainConfig, check
from mt4ssl_bench.upstream.data import Batch, PretrainData
from mt4ssl_bench.upstream.expert import KIND
from mt4ssl_bench.upstream.frontend import frame_counts
from mt4ssl_bench.upstream.kmeans import joint_digest, make_labels
from mt4ssl_bench.upstream.labels import LabelStore
from mt4ssl_bench.upstream.masking import draw_masks
from mt4ssl_bench.upstream.model import MT4SSL, Losses

LOGGER = logging.getLogger(__name__)
VALID_SEED = 0  # masks of the validation pass: the same in every run, so that losses compare
VALID_SECONDS = 600.0  # audio that one validation pass reads at most


@dataclass
class Pretraining:
    """Everything that one run needs, opened and checked; run() trains."""

    config: PretrainConfig
    model: MT4SSL
    train: PretrainData
    valid: PretrainData
    device: torch.device
    digest: str

    def loss(self, batch: Batch, step: int, micro: int) -> StepLoss:
        """Return one batch's loss, its masks drawn from a generator that belongs to this update."""
        seed = (self.config.fit.seed, step, micro)
        losses = self.forward(batch, seed, self.config.masking.clones)
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
        )

    def forward(self, batch: Batch, seed: tuple[int, ...], clones: int) -> Losses:
        """Return the losses of one batch under `clones` masks drawn from `seed`."""
        batch = batch.to(self.device)
        frames: list[int] = frame_counts(batch.lengths).tolist()
        generator = np.random.default_rng(seed)
        masks = [draw_masks(frames, max(frames), self.config.masking, generator) for _ in range(clones)]
        with self._autocast():
            losses: Losses = self.model(batch.waveforms, batch.lengths, batch.labels, torch.cat(masks).to(self.device))
        return losses

    def after_step(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        """Move the extractors and stop a collapsed run."""
        said = {k: v for _, extractor in self.model.named_extractors() for k, v in extractor.update(step).items()}
        if values and step >= self.config.collapse_step:
            for key, least in (
                ("target_var", self.config.min_target_var),
                ("pred_var", self.config.min_pred_var),
            ):
                if values.get(key, math.inf) < least:
                    raise TrainingError(
                        f"collapse at update {step}: {key} is {values[key]:.3g}, under {least}; "
                        "a slower teacher (targets.online.ema_start nearer 1) or a lower optim.lr may help"
                    )
        return said

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:  # noqa: ARG002 - fit's signature
        """Return the validation losses per masked frame, under masks that are the same in every run."""
        self.model.eval()
        sums: dict[str, Tensor] = {}
        count = 0
        for number, batch in enumerate(self.valid(0)):
            losses = self.forward(batch, (VALID_SEED, number), 1)
            for name, value in losses.sums.items():
                sums[name] = sums.get(name, torch.zeros((), device=value.device)) + value
            count += losses.masked
        self.model.train()
        return {f"valid_{name}": value.item() / max(count, 1) for name, value in sums.items()}

    def run(self, out: Path) -> FitReport:
        """Train, keeping checkpoint.pt, config.json and log.jsonl in `out`; repeating it continues."""
        out.mkdir(parents=True, exist_ok=True)
        stored = to_dict(self.config)
        fit = Fit(
            self.model.train(),
            self.train.stream(),
            self.loss,
            self.config.optim,
            self.config.fit,
            run=out,
            meta={"kind": KIND, "config": stored, "corpus_digest": self.digest},
            after_step=self.after_step,
            validate=self.validate,
            title=f"pretrain {out.name}",
        )
        (out / "config.json").write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
        return fit()

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        kind = self.config.fit.autocast
        if kind == "auto":
            kind = "none" if self.device.type == "cpu" else "bf16"
        if kind == "none":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def open_pretraining(config: PretrainConfig, *, device: str = "auto") -> Pretraining:
    """Open corpora and labels (made when missing) and build the model; raises BenchError before any long work."""
    check(config)
    if not config.data.corpus:
        raise ConfigError("data.corpus: no corpus named; for example data.corpus=corpora/mine")
    corpora = [Corpus.open(path) for path in config.data.corpus]
    for corpus in corpora:  # a wrong split name must show before the labels are made
        corpus.cuts(config.data.train)
        corpus.cuts(config.data.valid)
    where = pick_device(device)
    digest, labels = joint_digest(corpora), None
    if config.targets.offline.weight:
        labels = open_labels(config, corpora, digest, where)
    torch.manual_seed(config.fit.seed)
    model = MT4SSL(config).to(where)
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
    return Pretraining(config, model, train, valid, torch.device(where), digest)


def open_labels(config: PretrainConfig, corpora: list[Corpus], digest: str, device: str) -> LabelStore:
    """Return the run's label store: the one that the recipe names, or one made from the corpora."""
    offline, data = config.targets.offline, config.data
    if offline.labels:
        return LabelStore(Path(offline.labels)).check(digest, offline.clusters)
    return make_labels(corpora, (data.train, data.valid), offline, out=None, seed=config.fit.seed, device=device)
