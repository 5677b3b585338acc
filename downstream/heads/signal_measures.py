"""Measures of estimated signals: SI-SDR, and PESQ and STOI by the packages of `[enhance]`.

Shapes: S sources, N samples.
"""

import warnings
from importlib.util import find_spec
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from mt4ssl_bench.data.audio import RATE, Samples
from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.wheels import missing

EPS = 1e-8  # as in s3prl
LOWEST_PESQ = 0.999  # the lower end of ITU-T P.862.2's mapping
PACKAGES = {"pesq": "pesq", "stoi": "pystoi"}  # by measure

Signals = NDArray[np.float32]  # (S, N)


def check_packages(measures: tuple[str, ...]) -> None:
    """Raise ConfigError if a measure needs a package that is not installed."""
    if any(name in PACKAGES and not find_spec(PACKAGES[name]) for name in measures):
        line = missing(f"measures={','.join(measures)}", "enhance")
        raise ConfigError(f"{line}, or select by SI-SDR: measures=si_sdri")


def si_sdr(estimate: Samples, reference: Samples) -> float:
    """Return the scale-invariant signal-to-distortion ratio of signals (N,) in dB.

    Le Roux et al. 2019, "SDR: half-baked or well done?", of signals without their means.
    """
    a, b = (x.astype(np.float64) - x.mean(dtype=np.float64) for x in (estimate, reference))
    projection = (a @ b) / (b @ b + EPS) * b
    noise = a - projection
    return float(10 * np.log10((projection @ projection) / (noise @ noise + EPS) + EPS))


def best_order(estimates: Signals, references: Signals) -> tuple[int, ...]:
    """Return which estimate is of each reference, by the highest mean SI-SDR."""
    table = [[si_sdr(estimate, reference) for estimate in estimates] for reference in references]
    orders = permutations(range(len(references)))
    return max(orders, key=lambda order: sum(table[s][e] for s, e in enumerate(order)))


def pesq(estimate: Samples, reference: Samples) -> float | None:
    """Return wide-band PESQ of signals (N,), None if the package cannot compute it.

    A silent estimate of speech has LOWEST_PESQ: left out, it would raise the mean of its system.
    """
    from pesq import PesqError
    from pesq import pesq as measure

    try:
        with np.errstate(invalid="ignore"):  # it divides by the peak of silence
            value = float(measure(RATE, reference, estimate, "wb"))
    except (PesqError, ValueError):  # silent, or shorter than 1/4 s
        lost = reference.any() and not estimate.any()
        return LOWEST_PESQ if lost and pesq(reference, reference) else None
    return value if np.isfinite(value) else None


def stoi(estimate: Samples, reference: Samples) -> float | None:
    """Return STOI of signals (N,) in per cent, None if less than 0.4 s of them is not silent."""
    from pystoi import stoi as measure

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            value = 100 * float(measure(reference, estimate, RATE, extended=False))
    except (RuntimeWarning, ValueError):
        return None
    return value if np.isfinite(value) else None


BY_PACKAGE = {"pesq": pesq, "stoi": stoi}


def measured(
    estimates: Signals, references: Signals, mixture: Samples, measures: tuple[str, ...]
) -> dict[str, float]:
    """Return measures of the estimates in their best order, means over sources.

    Args:
        estimates: (S, N).
        references: (S, N).
        mixture: (N,).
        measures: "si_sdri", "pesq", "stoi"; with "_mixture" at the end, of the mixture itself.

    Returns:
        By measure; one that cannot be computed for every source is not there: nothing is scored
        against a silent reference.
    """
    if not np.isfinite(estimates).all() or not references.any(axis=1).all():
        return {}
    order = best_order(estimates, references)
    pairs = [(estimates[e], reference) for e, reference in zip(order, references, strict=True)]
    found: dict[str, float] = {}
    for name in measures:
        kind, of_mixture = name.removesuffix("_mixture"), name.endswith("_mixture")
        values: list[float | None] = []
        for estimate, reference in pairs:
            if kind == "si_sdri":
                values.append(si_sdr(estimate, reference) - si_sdr(mixture, reference))
            else:
                values.append(BY_PACKAGE[kind](mixture if of_mixture else estimate, reference))
        sound = [value for value in values if value is not None]
        if len(sound) == len(values):
            found[name] = float(np.mean(sound))
    return found
