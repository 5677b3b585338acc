"""The best order of outputs whose order means nothing, as those of speakers.

Shapes: B batch, V outputs.
"""

from itertools import permutations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mt4ssl_bench.device import moved

FEW = 5  # outputs up to which all orders are compared


def best_orders(costs: Tensor) -> Tensor:
    """Return the lowest mean cost (B,) of pairing outputs with speakers, of costs (B, V, V)."""
    count = costs.shape[1]
    if count > FEW:  # an assignment, for which the host waits
        finite = costs.detach().nan_to_num().cpu().numpy()
        pairs = zip(costs, finite, strict=True)
        return torch.stack([cost[linear_sum_assignment(known)].mean() for cost, known in pairs])
    orders = torch.eye(count)[torch.tensor(list(permutations(range(count))))]  # (V!, V, V)
    means = torch.einsum("bvw,ovw->bo", costs, moved(orders, costs.device)) / count
    return means.min(dim=1).values
