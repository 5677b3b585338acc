"""Our checkpoints as upstreams: behind this toolkit's protocol and, through register(), in s3prl's hub."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mt4ssl_bench import checkpoint
from mt4ssl_bench.config import from_dict, load
from mt4ssl_bench.errors import CheckpointError, UpstreamError
from mt4ssl_bench.features import Features, Upstream
from mt4ssl_bench.upstream.config import PretrainConfig, check
from mt4ssl_bench.upstream.frontend import RECEPTIVE_FIELD, STRIDE, normalize
from mt4ssl_bench.upstream.model import MT4SSL

KIND = "mt4ssl"


class MT4SSLUpstream:
    """The student of an MT4SSL model, frozen."""

    def __init__(self, model: MT4SSL, name: str, device: str) -> None:
        model.extractors.clear()  # heads and teacher serve training alone
        self.model = model.to(device).eval().requires_grad_(requires_grad=False)
        self.name, self.device, self.stride = name, device, STRIDE
        config = model.config.encoder
        self.num_layers, self.dim = config.layers + 1, config.dim
        self.parameters = sum(p.numel() for p in model.parameters())
        self.fingerprint = checkpoint.fingerprint(model.state_dict())

    @torch.no_grad()
    def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
        """See Upstream.extract."""
        padded = prepare(waveforms.to(self.device), lengths, normalized=self.model.config.frontend.normalize)
        layers, frames = self.model.hidden_states(padded, lengths.to(self.device))
        return Features(torch.stack(layers), frames.cpu())


class UpstreamExpert(nn.Module):
    """The s3prl side of a checkpoint: waveforms in, {"hidden_states": [...]} out; gradients flow in train mode."""

    def __init__(self, ckpt: str, **_: object) -> None:
        super().__init__()
        self.model = read_model(Path(ckpt))
        self.model.extractors.clear()

    def get_downsample_rates(self, key: str = "") -> int:  # noqa: ARG002 - s3prl's signature
        """Return the stride in samples per frame."""
        return STRIDE

    def forward(self, wavs: list[Tensor]) -> dict[str, Any]:
        """Return the hidden states, each (B, T, D), of 16 kHz waveforms (N_b,)."""
        lengths = torch.tensor([len(wav) for wav in wavs], device=wavs[0].device)
        padded = nn.utils.rnn.pad_sequence(wavs, batch_first=True)
        padded = prepare(padded, lengths, normalized=self.model.config.frontend.normalize)
        layers, _ = self.model.hidden_states(padded, lengths)
        return {"hidden_states": layers, "last_hidden_state": layers[-1]}


def prepare(waveforms: Tensor, lengths: Tensor, *, normalized: bool) -> Tensor:
    """Return waveforms (B, N) normalised over their real samples; raises UpstreamError when one is too short."""
    if int(lengths.min()) < RECEPTIVE_FIELD:
        raise UpstreamError(
            f"audio of {int(lengths.min())} samples: at least {RECEPTIVE_FIELD} (25 ms at 16 kHz) are needed"
        )
    rows = [
        normalize(wave[:length]) if normalized else wave[:length]
        for wave, length in zip(waveforms.float(), lengths.tolist(), strict=True)
    ]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


def read_model(path: Path) -> MT4SSL:
    """Return the model of a run folder or checkpoint file; raises CheckpointError when it is not one of ours."""
    if path.is_dir():
        path = path / "checkpoint.pt"
    stored = checkpoint.load(path)
    if stored.get("kind") != KIND:
        raise CheckpointError(f"{path}: not a pretraining checkpoint ({stored.get('kind', 'no kind')})")
    model = MT4SSL(from_dict(PretrainConfig, stored["config"]))
    try:
        model.load_state_dict(stored["model"])
    except RuntimeError as error:
        raise CheckpointError(f"{path}: its weights do not fit its config ({str(error).splitlines()[0]})") from None
    return model


def load_checkpoint(argument: str, *, device: str) -> Upstream:
    """Return the upstream of a run folder or checkpoint file; its name is the folder's."""
    path = Path(argument)
    folder = path if path.is_dir() else path.parent
    return MT4SSLUpstream(read_model(path), folder.resolve().name, device)


def load_random(argument: str, *, device: str) -> Upstream:
    """Return an untrained model of a pretraining recipe, always with the same weights: a baseline."""
    config = check(load(PretrainConfig, argument or "mt4ssl_tiny"))
    state = torch.get_rng_state()
    torch.manual_seed(config.fit.seed)
    model = MT4SSL(config)
    torch.set_rng_state(state)
    return MT4SSLUpstream(model, f"random:{argument or 'mt4ssl_tiny'}", device)


def mt4ssl_local(ckpt: str, **kwargs: object) -> UpstreamExpert:
    """s3prl hub entry: an MT4SSL run folder or checkpoint file."""
    return UpstreamExpert(ckpt, **kwargs)


def register() -> None:
    """Add our entries to s3prl's hub, so that S3PRLUpstream("mt4ssl_local", path) works; never replaces a name."""
    import s3prl.hub as hub

    if not hasattr(hub, "mt4ssl_local"):
        hub.mt4ssl_local = mt4ssl_local
