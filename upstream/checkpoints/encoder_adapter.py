"""MT4SSL checkpoints behind the Upstream protocol."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from mt4ssl_bench import checkpoint
from mt4ssl_bench.device import moved_rows
from mt4ssl_bench.encoders.finetuning import TuneConfig
from mt4ssl_bench.encoders.identity import identify
from mt4ssl_bench.encoders.origin import Origin, checkpoint_origin
from mt4ssl_bench.encoders.protocol import Features, Upstream
from mt4ssl_bench.settings import Json
from mt4ssl_bench.upstream.checkpoints.checkpoint_file import KIND, Stored, read_student, student
from mt4ssl_bench.upstream.checkpoints.finetuned import build
from mt4ssl_bench.upstream.checkpoints.waveform_checks import check_waveforms
from mt4ssl_bench.upstream.config import PretrainConfig
from mt4ssl_bench.upstream.encoder import compile_layers, pays
from mt4ssl_bench.upstream.frontend import normalize
from mt4ssl_bench.upstream.model import MT4SSL
from mt4ssl_bench.upstream.recipe import load_config, to_stored

# frames, two minutes: longer audio is encoded in windows, for attention's time grows as the square
WINDOW = 6_000


class MT4SSLUpstream:
    """The frozen student of an MT4SSL model.

    `pretrained` says that no model of other settings can have the same weights.
    """

    def __init__(self, model: MT4SSL, name: str, device: str, *, pretrained: bool = False) -> None:
        model.extractors.clear()  # heads and teacher are needed only in training
        self.model = model.to(device).eval().requires_grad_(requires_grad=False)
        self.name, self.device, self.stride = name, device, model.config.frontend.stride
        config = model.config.encoder
        self.num_layers, self.dim = config.layers + 1, config.dim
        self.blueprint: dict[str, Json] = {"kind": KIND, "config": to_stored(model.config)}
        self.parameters = sum(p.numel() for p in model.parameters())
        self.fingerprint = fingerprint(model.config, model.state_dict())
        old = checkpoint.fingerprint(model.state_dict())  # scheme 1: the weights only
        self.former: tuple[str, ...] = (old,) if pretrained else ()
        self.insufficient: tuple[str, ...] = () if pretrained else (old,)
        self.origin: Origin = {}

    @torch.no_grad()
    def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
        """See Upstream.extract.

        Raises:
            UpstreamError: For audio that is too short or not finite.
        """
        if pays(self.model.config.encoder, self.device):
            # such arithmetic is asked for where there is much to compute
            half = torch.is_autocast_enabled(torch.device(self.device).type)
            compile_layers(self.model, layers=half, fused=half)
        return self.hidden_states(waveforms, lengths)

    def hidden_states(self, waveforms: Tensor, lengths: Tensor) -> Features:
        """Return what extract() does, with gradients."""
        # checked where they are: on a GPU, each check would wait for it
        pairs = zip(waveforms, lengths.tolist(), strict=True)
        waves = [wave[:length] for wave, length in pairs]
        layers, counts = hidden_states(self.model, waves)
        return Features(torch.stack(layers), counts.cpu())

    def trainable(self, config: TuneConfig) -> nn.Module:
        """Return the student with the dropouts of `config`; see finetuning.Trainable."""
        tuned = build(self.blueprint, config)
        tuned.model.load_state_dict(self.model.state_dict())
        if pays(self.model.config.encoder, self.device):
            compile_layers(tuned, fused=True)
        return tuned.to(self.device)


def fingerprint(config: PretrainConfig, state: Mapping[str, Tensor]) -> str:
    """Return the fingerprint of a student: its weights, and the settings that they do not show."""
    frontend = config.frontend
    settings = {"normalize": frontend.normalize, "heads": config.encoder.heads}
    if frontend.mels:  # a stack of frames shows in the projection's weights
        settings |= {"mels": frontend.mels}
    return identify(student(state), [KIND, settings])


def hidden_states(model: MT4SSL, waves: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Return the encoder's input and every layer's output, each (B, T, D), and frame counts (B,).

    Counts are on the host. Waveforms (N_b,) of more than WINDOW frames are encoded in windows of
    equal length. Attention, and the normalization of a filter bank, do not look beyond their
    window; convolutions give the same frames.

    Raises:
        UpstreamError: For unusable waveforms.
    """
    frontend = model.config.frontend
    check_waveforms(waves, frontend.receptive_field)
    lengths = torch.tensor([len(wave) for wave in waves])
    waves = moved_rows(waves, model.mask_emb.device)
    waves = [normalize(wave.float()) if frontend.normalize else wave.float() for wave in waves]
    if frontend.frame_count(int(lengths.max())) <= WINDOW:
        return model.hidden_states(nn.utils.rnn.pad_sequence(waves, batch_first=True), lengths)
    rows = [_in_windows(model, wave) for wave in waves]  # B times (L, T_b, D)
    layers = nn.utils.rnn.pad_sequence(
        [row.transpose(0, 1) for row in rows], batch_first=True
    )  # (B, T, L, D)
    return list(layers.unbind(2)), frontend.frame_counts(lengths)


def _in_windows(model: MT4SSL, wave: Tensor) -> Tensor:
    """Return the hidden states (L, T, D) of one normalized waveform, encoded window by window."""
    frontend = model.config.frontend
    num_frames, stride = frontend.frame_count(len(wave)), frontend.stride
    size = math.ceil(num_frames / math.ceil(num_frames / WINDOW))
    parts = []
    for start in range(0, num_frames, size):
        part = wave[start * stride : (start + size - 1) * stride + frontend.receptive_field]
        layers, _ = model.hidden_states(part[None], torch.tensor([len(part)]))
        parts.append(torch.stack(layers)[:, 0])
    return torch.cat(parts, dim=1)


def load_checkpoint(argument: str, *, device: str) -> Upstream:
    """Return the upstream of a run folder or checkpoint file, named like the folder or file."""
    path = Path(argument)
    folder = path if path.is_dir() else path.parent
    name = path.stem if path.is_file() and path.name != "checkpoint.pt" else folder.resolve().name
    return load_file(path, name, device)


def load_file(path: Path, name: str, device: str, *, address: str = "") -> Upstream:
    """Return the upstream of a run folder or checkpoint file, downloaded from `address`."""
    model, stored = read_student(path)
    upstream = MT4SSLUpstream(model, name, device, pretrained=is_pretrained(stored))
    file = path / "checkpoint.pt" if path.is_dir() else path
    upstream.origin = checkpoint_origin(file, address)
    return upstream


def is_pretrained(stored: Stored) -> bool:
    """Return whether this toolkit pretrained a checkpoint; it may have been exported since."""
    return "source" not in stored and "corpus_digest" in stored and stored.get("step", 0) > 1


def load_random(argument: str, *, device: str) -> Upstream:
    """Return the untrained model of a pretraining recipe, always with the same weights."""
    config = load_config(argument or "mt4ssl_tiny")
    state = torch.get_rng_state()
    torch.manual_seed(config.fit.seed)
    model = MT4SSL(config, student_only=True)
    torch.set_rng_state(state)
    return MT4SSLUpstream(model, f"random:{argument or 'mt4ssl_tiny'}", device)
