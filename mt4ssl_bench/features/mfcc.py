"""MFCC as an upstream: the features that HuBERT's first iteration clusters."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mt4ssl_bench.data import audio
from mt4ssl_bench.data.frame_grid import STRIDE, frame_count
from mt4ssl_bench.encoders.protocol import Features
from mt4ssl_bench.wheels import import_torchaudio


def mfcc(samples: NDArray[np.float32]) -> Tensor:
    """Return (T, 39): 13 MFCC, deltas and double deltas of 16 kHz audio (N,), at 50 Hz.

    Kaldi's 25 ms window every 10 ms, as in HuBERT. Every second frame is kept: frame t covers the
    samples that frame t of MT4SSL's front end covers.
    """
    # Kaldi's range, in which log energies stay above its floor
    wave = torch.from_numpy(samples)[None] * 32768.0
    torchaudio = import_torchaudio("MFCC features")
    static = torchaudio.compliance.kaldi.mfcc(
        wave, sample_frequency=audio.RATE, use_energy=False
    ).t()[None]
    delta = torchaudio.functional.compute_deltas(static)
    double = torchaudio.functional.compute_deltas(delta)
    rows = torch.cat([static, delta, double], dim=1)[0].t()  # (2T, 39)
    return rows[::2].contiguous()[: frame_count(len(samples))]


class MFCC:
    """mfcc() behind the Upstream protocol."""

    name = fingerprint = "mfcc"
    num_layers, dim, stride, parameters = 1, 39, STRIDE, 0

    def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
        """See Upstream.extract."""
        rows = [
            mfcc(wave[:n].cpu().numpy())
            for wave, n in zip(waveforms, lengths.tolist(), strict=True)
        ]
        layers = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)[None]
        return Features(layers, torch.tensor([len(row) for row in rows]))
