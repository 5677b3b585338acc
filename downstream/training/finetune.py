"""Fine-tuning: the upstream is trained with a linear head; the best model on valid is kept.

Shapes: B batch, N samples, T frames, V outputs.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn

from mt4ssl_bench.data import audio
from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.downstream.clock import Stopwatch
from mt4ssl_bench.downstream.job import named
from mt4ssl_bench.downstream.task import Logits, Task
from mt4ssl_bench.downstream.training.audio_batches import Audio, AudioBatch
from mt4ssl_bench.downstream.training.best_model import Best, read_best
from mt4ssl_bench.downstream.training.finetuned_model import Tuned, TunedHead
from mt4ssl_bench.downstream.training.saved_model import Meta
from mt4ssl_bench.encoders.kind import trainable
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import DivergedError
from mt4ssl_bench.results.record_parts import Trial
from mt4ssl_bench.training.distributed import World, no_sync
from mt4ssl_bench.training.fit import Fit, FitConfig, Hooks, Scaling, StepLoss
from mt4ssl_bench.training.optim import OptimConfig
from mt4ssl_bench.training.run_folder import PassingFolder, checkpoint_bytes


class Finetuning:
    """An upstream that is trained for one task at one rate and seed, in `folder`.

    The processes of a world, whose number divides the batches of an update, share these and the
    batches of a validation.
    """

    def __init__(
        self,
        task: Task,
        upstream: Upstream,
        *,
        lr: float,
        folder: Path,
        world: World,
        seed: int = 0,
    ) -> None:
        self.task = task.with_seed(seed)
        self.config, self.lr, self.seed = self.task.config, lr, seed
        self.folder, self.world, self.device = folder, world, torch.device(world.device)
        tune, layers, dim = task.config.tune, upstream.num_layers, upstream.dim
        encoder = trainable(upstream, tune)
        torch.manual_seed(seed)
        head = TunedHead(layers, dim, task.outputs, tune, pooled=task.pooled)
        self.upstream, self.model = upstream, Tuned(encoder, head).to(self.device)
        self.net: nn.Module = self.model  # or what shares its gradients
        self.best = Best()
        self.watch = Stopwatch()

    def trial(self) -> Trial:
        """Return what a record holds of this training."""
        valid = self.best.value if math.isfinite(self.best.value) else None
        steps = self.best.step
        return {"lr": self.lr, "seed": self.seed, "valid": valid, "steps": steps, "chosen": False}

    def fit(self, train: Sequence[Cut], valid: Sequence[Cut], title: str, meta: Meta) -> None:
        """Train, then hold the model that was best on valid; an interrupted call continues.

        Args:
            train: Cuts of the training split.
            valid: Cuts of the validation split.
            title: Names the run in messages.
            meta: What the training depends on.

        Raises:
            DivergedError: If the loss, a gradient or the logits on valid are not finite.
            TrainingError: If the batch does not fit into the device's memory.
            KeyboardInterrupt: If a stop was requested; the state is saved.
        """
        self.watch.start()
        config, tune = self.config, self.config.tune
        # dropped layers, and those above the one that the head reads, have no gradient
        self.net = self.world.wrap(self.model, unused=True)
        data, checked = Audio(self.task, train, "train"), Audio(self.task, valid, "valid")
        report = Fit(
            self.model.train(),
            data.batches(shuffle=True).stream(rank=self.world.rank, world=self.world.size),
            self.loss,
            # wav2vec 2.0's: Adam with a tri-stage rate
            OptimConfig(
                lr=self.lr,
                betas=(0.9, 0.98),
                eps=1e-8,
                weight_decay=0.0,
                phases=tune.phases,
                final_scale=tune.final_scale,
                clip_norm=config.clip_norm,
            ),
            FitConfig(
                steps=config.steps,
                seed=self.seed,
                accumulate=config.accumulate // self.world.size,
                log_every=max(config.validate_every // 4, 1),
                validate_every=config.validate_every,
            ),
            groups=[
                {"params": [p for p in self.model.encoder.parameters() if p.requires_grad]},
                {"params": list(self.model.head.parameters()), "lr": self.lr * tune.head_lr},
            ],
            folder=PassingFolder(self.folder, meta, size=checkpoint_bytes(self.model.parameters())),
            hooks=Hooks(
                validate=lambda step: self._validate(checked, step),
                state=lambda: {"best": self.best.stored(), "seconds": self.watch.seconds},
                restore=self._restore,
            ),
            scaling=Scaling(world=self.world, no_sync=partial(no_sync, self.net)),
            title=title,
        )()
        if not report.finished:
            raise KeyboardInterrupt
        if not self.best.weights:
            name = self.task.choice.name
            raise DivergedError(f"{title}: no finite {name} on valid; try lower rates")
        self.model.load_state_dict(self.best.weights)
        self.best = Best(self.best.value, self.best.step)  # the model has the weights now

    def _validate(self, checked: Audio, step: int) -> dict[str, float]:
        metric = self.task.choice
        hypotheses, cuts = self._decode_together(checked)
        value = self.task.measure(cuts, hypotheses)
        # as in fairseq, the later of two equal ones is kept
        if math.isfinite(value) and not metric.better(self.best.value, value):
            self.best = Best(value, step, Best.copy(self.model.state_dict()))
        return {metric.name: value}

    def _decode_together(self, data: Audio) -> tuple[list[str], list[Cut]]:
        """Return decode() of a split, whose batches the processes share.

        Raises:
            DivergedError: In every process, if one of them has logits that are not finite.
        """
        shares = self.world.gather(self.world.agree(lambda: self._decode_share(data)))
        # batch after batch, as one process decodes them
        turns = chain.from_iterable(zip_longest(*shares))
        decoded = [batch for batch in turns if batch is not None]
        by_id = {cut.id: cut for cut in data.cuts}
        cuts = [by_id[name] for names, _ in decoded for name in names]
        return [text for _, texts in decoded for text in texts], cuts

    def _decode_share(self, data: Audio) -> list[tuple[list[str], list[str]]]:
        """Return ids and hypotheses of each batch of this process."""
        return [
            ([cut.id for cut in cuts], self.task.decode(logits, lengths))
            for cuts, logits, lengths in self.logits(data, shared=True)
        ]

    def _restore(self, stored: Mapping[str, object]) -> None:
        self.best = read_best(stored, self.task.choice, self.folder)
        self.watch.earlier = cast("float", stored.get("seconds", 0.0))

    def loss(self, batch: AudioBatch, step: int, micro: int) -> StepLoss:
        """Return the loss of a batch, summed over utterances.

        Masks come from a generator that depends only on seed, update and batch.
        """
        generator = np.random.default_rng((self.seed, step, micro))
        frozen = step < self.config.tune.freeze_updates
        with self._autocast():
            logits, lengths = self.net(batch.waveforms, batch.lengths, generator, frozen=frozen)
        targets = [self.task.target(cut) for cut in batch.cuts]
        total = self.task.summed_loss(logits, lengths, targets)
        seconds = float(batch.lengths.sum()) / audio.RATE
        ids = [cut.id for cut in batch.cuts]
        return StepLoss(total=total, count=len(ids), sums={"loss": total}, seconds=seconds, ids=ids)

    def decode(self, data: Audio) -> tuple[list[str], list[Cut]]:
        """Return the hypotheses of a split and its cuts, in one order."""
        hypotheses: list[str] = []
        decoded: list[Cut] = []
        for cuts, logits, lengths in self.logits(data):
            hypotheses += self.task.decode(logits, lengths)
            decoded += cuts
        return hypotheses, decoded

    @torch.no_grad()
    def logits(self, data: Audio, *, shared: bool = False) -> Iterator[Logits]:
        """Yield the logits of a split, or of this process's share, without masks and dropout."""
        self.model.eval()
        part = {"rank": self.world.rank, "world": self.world.size} if shared else {}
        for batch in data.batches(shuffle=False)(**part):
            with self._autocast():
                logits, lengths = self.model(batch.waveforms, batch.lengths)
            if not logits.isfinite().all():
                names = named([cut.id for cut in batch.cuts])
                raise DivergedError(f"lr {self.lr:g}: logits are not finite, utterances {names}")
            yield batch.cuts, logits, lengths
        self.model.train()

    def _autocast(self) -> torch.autocast:
        kind = self.device.type
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=kind != "cpu")
