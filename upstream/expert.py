"""Our checkpoints as upstreams: behind this toolkit's protocol and, through register(), in s3prl's hub."""

import hashlib
import logging
import math
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mt4ssl_bench import checkpoint
from mt4ssl_bench.config import from_dict, load, to_dict
from mt4ssl_bench.data.audio import RATE
from mt4ssl_bench.encoders.finetuning import TuneConfig
from mt4ssl_bench.encoders.identity import identify
from mt4ssl_bench.encoders.protocol import Features, Upstream
from mt4ssl_bench.encoders.s3prl_model import s3prl_hub
from mt4ssl_bench.errors import CheckpointError, UpstreamError, first_line
from mt4ssl_bench.upstream.config import PretrainConfig, check
from mt4ssl_bench.upstream.frontend import (
    RECEPTIVE_FIELD,
    STRIDE,
    frame_count,
    frame_counts,
    normalize,
)
from mt4ssl_bench.upstream.model import MT4SSL

LOGGER = logging.getLogger(__name__)
KIND = "mt4ssl"
WINDOW = 6_000  # frames, two minutes: longer audio is encoded in windows, for attention's time grows as the square


class MT4SSLUpstream:
    """The student of an MT4SSL model, frozen; `pretrained`: no other settings can have its weights."""

    def __init__(self, model: MT4SSL, name: str, device: str, *, pretrained: bool = False) -> None:
        model.extractors.clear()  # heads and teacher serve training alone
        self.model = model.to(device).eval().requires_grad_(requires_grad=False)
        self.name, self.device, self.stride = name, device, STRIDE
        config = model.config.encoder
        self.num_layers, self.dim = config.layers + 1, config.dim
        self.blueprint = {"kind": KIND, "config": to_dict(model.config)}
        self.parameters = sum(p.numel() for p in model.parameters())
        self.fingerprint = fingerprint(model.config, model.state_dict())
        old = checkpoint.fingerprint(model.state_dict())  # scheme 1: the weights only
        self.former: tuple[str, ...] = (old,) if pretrained else ()
        self.insufficient: tuple[str, ...] = () if pretrained else (old,)

    @torch.no_grad()
    def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
        """See Upstream.extract; raises UpstreamError for audio that is too short or not finite."""
        waves = [
            wave[:length]
            for wave, length in zip(waveforms.to(self.device), lengths.tolist(), strict=True)
        ]
        layers, frames = hidden_states(self.model, waves)
        return Features(torch.stack(layers), frames.cpu())

    def trainable(self, config: TuneConfig) -> nn.Module:
        """See tuning.Trainable: the student with the dropouts of `config`."""
        from mt4ssl_bench.upstream.checkpoints.finetuned import (
            build,  # which needs check_waveforms() from here
        )

        tuned = build(self.blueprint, config)
        tuned.model.load_state_dict(self.model.state_dict())
        return tuned.to(self.device)


class UpstreamExpert(nn.Module):
    """The s3prl side of a checkpoint: waveforms in, {"hidden_states": [...]} out; gradients flow in train mode.

    A dropped layer is the identity, so that the number of hidden states is always the same.
    """

    def __init__(self, ckpt: str | Path) -> None:
        super().__init__()
        self.model = read_model(Path(ckpt))

    def get_downsample_rates(self, key: str = "") -> int:  # noqa: ARG002 - s3prl's signature
        """Return the stride in samples per frame."""
        return STRIDE

    def forward(self, wavs: list[Tensor], sample_rate: int = RATE) -> dict[str, Any]:
        """Return the hidden states, each (B, T, D), of 16 kHz waveforms (N_b,) on the device of the weights.

        Raises UpstreamError for another sample rate and for what is not a list of float waveforms with one channel.
        """
        if sample_rate != RATE:
            raise UpstreamError(f"audio at {sample_rate} Hz: expected {RATE}; resample it first")
        layers, _ = hidden_states(self.model, wavs)
        return {"hidden_states": layers, "last_hidden_state": layers[-1]}


def fingerprint(config: PretrainConfig, state: Mapping[str, Tensor]) -> str:
    """Return the fingerprint of a student: its weights, and the settings that they do not show."""
    student = {key: tensor for key, tensor in state.items() if not key.startswith("extractors.")}
    settings = {"normalize": config.frontend.normalize, "heads": config.encoder.heads}
    return identify(student, [KIND, settings])


def hidden_states(model: MT4SSL, waves: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Return the encoder's input and every layer's output, each (B, T, D), and the real frames (B,).

    Waveforms (N_b,) of more than WINDOW frames are encoded in equal windows, whose frames are exactly the whole's;
    only attention does not look further than its window. Raises UpstreamError for unusable waveforms.
    """
    check_waveforms(waves)
    lengths = torch.tensor([len(wave) for wave in waves], device=waves[0].device)
    normalized = model.config.frontend.normalize
    waves = [normalize(wave.float()) if normalized else wave.float() for wave in waves]
    if frame_count(int(lengths.max())) <= WINDOW:
        return model.hidden_states(nn.utils.rnn.pad_sequence(waves, batch_first=True), lengths)
    rows = [_in_windows(model, wave) for wave in waves]  # B times (L, T_b, D)
    layers = nn.utils.rnn.pad_sequence(
        [row.transpose(0, 1) for row in rows], batch_first=True
    )  # (B, T, L, D)
    return list(layers.unbind(2)), frame_counts(lengths)


def _in_windows(model: MT4SSL, wave: Tensor) -> Tensor:
    """Return the hidden states (L, T, D) of one normalised waveform, encoded in windows of equal length."""
    frames = frame_count(len(wave))
    size = math.ceil(frames / math.ceil(frames / WINDOW))
    parts = []
    for start in range(0, frames, size):
        part = wave[start * STRIDE : (start + size - 1) * STRIDE + RECEPTIVE_FIELD]
        layers, _ = model.hidden_states(part[None], torch.tensor([len(part)], device=wave.device))
        parts.append(torch.stack(layers)[:, 0])
    return torch.cat(parts, dim=1)


def check_waveforms(waves: list[Tensor]) -> None:
    """Raise UpstreamError unless `waves` are finite float waveforms (N,) of one frame or more."""
    if not isinstance(waves, list | tuple) or not waves:
        raise UpstreamError("no waveforms: expected a list of 16 kHz waveforms, at least one")
    for i, wave in enumerate(waves):
        if not isinstance(wave, Tensor):
            raise UpstreamError(
                f"waveform {i}: a {type(wave).__name__}; expected a tensor (samples,)"
            )
        if wave.dim() != 1:
            raise UpstreamError(
                f"waveform {i}: shape {tuple(wave.shape)}; expected one channel, (samples,): average the channels first"
            )
        if not wave.is_floating_point():
            raise UpstreamError(
                f"waveform {i}: {str(wave.dtype).removeprefix('torch.')} samples; expected float in [-1, 1]: "
                "divide int16 by 32768 first"
            )
        if len(wave) < RECEPTIVE_FIELD:
            raise UpstreamError(
                f"waveform {i}: {len(wave)} samples; at least {RECEPTIVE_FIELD} (25 ms at 16 kHz) are needed"
            )
        if not torch.isfinite(wave).all():
            raise UpstreamError(f"waveform {i}: holds NaN or infinite samples")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what a run folder or checkpoint file holds; raises CheckpointError when it is not one of ours."""
    if path.is_dir():
        if (path / "model.safetensors").exists():
            raise CheckpointError(
                f"{path}: a Hugging Face folder; name it hf:{path}, or convert it"
            )
        path = path / "checkpoint.pt"
    stored = checkpoint.load(path)
    if stored.get("kind") != KIND:
        raise CheckpointError(
            f"{path}: not a pretraining checkpoint ({stored.get('kind', 'no kind')})"
        )
    return stored


def read_model(path: Path) -> MT4SSL:
    """Return the student of a run folder or checkpoint file, which may hold no more than that.

    Its heads and teacher, which serve training alone, are left out. Raises CheckpointError when it is not one of ours.
    """
    stored = read_checkpoint(path)
    model = MT4SSL(from_dict(PretrainConfig, stored["config"]))
    model.extractors.clear()
    try:
        model.load_state_dict(
            {k: v for k, v in stored["model"].items() if not k.startswith("extractors.")}
        )
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: its weights do not fit its config ({first_line(error)})"
        ) from None
    return model


def load_checkpoint(argument: str, *, device: str) -> Upstream:
    """Return the upstream of a run folder or checkpoint file; its name is the folder's or the file's."""
    path = Path(argument)
    folder = path if path.is_dir() else path.parent
    name = path.stem if path.is_file() and path.name != "checkpoint.pt" else folder.resolve().name
    return _load(path, name, device)


def _load(path: Path, name: str, device: str) -> Upstream:
    return MT4SSLUpstream(
        read_model(path), name, device, pretrained=is_pretrained(read_checkpoint(path))
    )


def is_pretrained(stored: Mapping[str, Any]) -> bool:
    """Return whether a checkpoint was pretrained here, or is an export of one; not if converted."""
    return "source" not in stored and "corpus_digest" in stored and stored.get("step", 0) > 1


def load_random(argument: str, *, device: str) -> Upstream:
    """Return an untrained model of a pretraining recipe, always with the same weights: a baseline."""
    config = check(load(PretrainConfig, argument or "mt4ssl_tiny"))
    state = torch.get_rng_state()
    torch.manual_seed(config.fit.seed)
    model = MT4SSL(config)
    torch.set_rng_state(state)
    return MT4SSLUpstream(model, f"random:{argument or 'mt4ssl_tiny'}", device)


def load_custom(argument: str, *, device: str) -> Upstream:
    """Return the upstream of a path or URL: what mt4ssl_custom is in s3prl's hub."""
    if not _is_url(argument):
        return load_checkpoint(argument, device=device)
    return _load(download(argument), Path(argument.partition("?")[0]).stem, device)


def load_default(argument: str, *, device: str) -> Upstream:
    """Return what mt4ssl is in s3prl's hub: the default checkpoint, or the path or URL that is named."""
    if not argument:
        mt4ssl()
    return load_custom(argument, device=device)


def mt4ssl_local(
    ckpt: str | None = None, model_config: object = None, refresh: object = None
) -> UpstreamExpert:
    """s3prl and torch.hub entry: an MT4SSL run folder or checkpoint file; its config is in the file."""
    del model_config, refresh  # s3prl passes both to every entry
    if ckpt is None:
        raise UpstreamError(
            "mt4ssl_local: ckpt is missing: the path of a run folder or checkpoint.pt"
        )
    return UpstreamExpert(ckpt)


def mt4ssl_url(
    ckpt: str | None = None, model_config: object = None, refresh: object = None
) -> UpstreamExpert:
    """s3prl and torch.hub entry: the URL of a checkpoint file, downloaded once; refresh=True downloads it again."""
    del model_config
    if ckpt is None or not _is_url(ckpt):
        raise UpstreamError(f"mt4ssl_url: ckpt={ckpt}: expected the http(s) URL of a checkpoint.pt")
    return UpstreamExpert(download(ckpt, refresh=bool(refresh)))


def mt4ssl_custom(
    ckpt: str | None = None, model_config: object = None, refresh: object = None
) -> UpstreamExpert:
    """s3prl and torch.hub entry: a path or a URL."""
    entry = mt4ssl_url if ckpt is not None and _is_url(ckpt) else mt4ssl_local
    return entry(ckpt, model_config, refresh)


def mt4ssl(
    ckpt: str | None = None, model_config: object = None, refresh: object = None
) -> UpstreamExpert:
    """s3prl and torch.hub entry: the default checkpoint, once there is one; until then a path or URL is needed."""
    if ckpt is None:
        raise UpstreamError(
            "mt4ssl: no checkpoint is published yet; train one (mt4ssl-bench pretrain mt4ssl_base data.corpus=... "
            "--out runs/base) and use mt4ssl_local with ckpt=runs/base"
        )
    return mt4ssl_custom(ckpt, model_config, refresh)


def register() -> None:
    """Add our entries to s3prl's hub, so that S3PRLUpstream("mt4ssl_local", path) works; never replaces a name."""
    hub = s3prl_hub()
    for entry in (mt4ssl, mt4ssl_local, mt4ssl_url, mt4ssl_custom):
        if not hasattr(hub, entry.__name__):
            setattr(hub, entry.__name__, entry)


def download(url: str, *, refresh: bool = False) -> Path:
    """Return the local copy of a checkpoint at `url`, kept in torch.hub's folder; a copy is whole and ours, or is not.

    Raises UpstreamError when it cannot be fetched, CheckpointError when it is not a checkpoint of ours.
    """
    name = f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{Path(url.partition('?')[0]).name}"
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if refresh or not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{name}.fresh")
        try:
            torch.hub.download_url_to_file(url, str(fresh), progress=True)
            checkpoint.load(fresh)
            fresh.replace(path)
        except (OSError, HTTPException) as error:
            raise UpstreamError(
                f"{url}: could not be downloaded ({error}); fetch the file some other way and give its path instead "
                "(mt4ssl_local)"
            ) from None
        except CheckpointError as error:
            raise CheckpointError(f"{url}: {str(error).partition(': ')[2]}") from None
        finally:
            fresh.unlink(missing_ok=True)
    LOGGER.info("%s: %s", url, path)
    return path


def _is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))
