"""Updates of parameter groups that train side by side: one that diverges leaves the others alone.

Nothing here waits for the device, but for found().
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from mt4ssl_bench.training.optim import GroupAdamW


class Divergence:
    """Updates groups, each clipped by its own norm; after a non-finite one, a group stays."""

    def __init__(self, optimizer: GroupAdamW) -> None:
        self.optimizer, device = optimizer, optimizer.param_groups[0]["params"][0].device
        count = len(optimizer.param_groups)
        self._wide = torch.float32 if device.type == "mps" else torch.float64
        self._first = torch.full((count,), -1, device=device)  # the update that was not finite
        self._known: set[int] = set()
        optimizer.broken = torch.zeros(count, device=device)

    def step(self, step: int, scale: float, clip_norm: float) -> None:
        """Scale the gradients, clip them, and update the weights after `step` updates."""
        norms = []
        for grads in gradients(self.optimizer):
            if not grads:
                norms.append(self._first.new_zeros((), dtype=self._wide))
                continue
            norm = nn.utils.get_total_norm(grads).to(self._wide)
            norms.append(norm)
            shrink = (clip_norm / (norm * scale + 1e-6)).clamp(max=1.0) if clip_norm > 0 else 1.0
            torch._foreach_mul_(grads, scale * shrink)
        bad = ~torch.stack(norms).isfinite()
        self._first = torch.where(bad & (self._first < 0), step, self._first)
        self.optimizer.broken = (self._first >= 0).float()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def found(self) -> Iterator[tuple[int, list[int]]]:
        """Yield updates with the numbers of the groups that diverged in them, each once."""
        first: Sequence[int] = self._first.tolist()
        new = [n for n, step in enumerate(first) if step >= 0 and n not in self._known]
        self._known.update(new)
        for step, numbers in groupby(sorted(new, key=first.__getitem__), key=first.__getitem__):
            yield step, list(numbers)


def gradients(optimizer: torch.optim.Optimizer) -> list[list[Tensor]]:
    """Return the gradients of each parameter group."""
    return [
        [p.grad for p in group["params"] if p.grad is not None] for group in optimizer.param_groups
    ]
