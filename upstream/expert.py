"""MT4SSL checkpoints in s3prl's hub and torch.hub, by path or URL."""

import hashlib
import logging
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor, nn

from mt4ssl_bench import checkpoint
from mt4ssl_bench.data.audio import RATE
from mt4ssl_bench.data.download import DownloadError
from mt4ssl_bench.data.download import download as download_file
from mt4ssl_bench.encoders.kinds.s3prl import s3prl_hub
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import CheckpointError, UpstreamError
from mt4ssl_bench.files import FOREVER, holding
from mt4ssl_bench.upstream.checkpoints.checkpoint_file import read_student
from mt4ssl_bench.upstream.checkpoints.encoder_adapter import (
    hidden_states,
    load_checkpoint,
    load_file,
)
from mt4ssl_bench.upstream.checkpoints.shipped import NAME, shipped

LOGGER = logging.getLogger(__name__)


class HiddenStates(TypedDict):
    """Output of an s3prl upstream; each tensor is (B, T, D)."""

    hidden_states: list[Tensor]
    last_hidden_state: Tensor


class UpstreamExpert(nn.Module):
    """A checkpoint as an s3prl upstream, with gradients.

    In training, a dropped layer is the identity: the number of hidden states stays the same.
    """

    def __init__(self, ckpt: str | Path) -> None:
        super().__init__()
        self.model, _ = read_student(Path(ckpt))

    def get_downsample_rates(self, key: str = "") -> int:  # noqa: ARG002 - s3prl's signature
        """Return the stride in samples per frame."""
        return self.model.config.frontend.stride

    def forward(self, wavs: list[Tensor], sample_rate: int = RATE) -> HiddenStates:
        """Return the hidden states of 16 kHz waveforms (N_b,) on the device of the weights.

        Raises:
            UpstreamError: For another sample rate, and for unusable waveforms.
        """
        if sample_rate != RATE:
            raise UpstreamError(f"audio at {sample_rate} Hz: expected {RATE}; resample it first")
        layers, _ = hidden_states(self.model, wavs)
        return {"hidden_states": layers, "last_hidden_state": layers[-1]}


def load_custom(argument: str, *, device: str) -> Upstream:
    """Return the upstream of a path or URL, as mt4ssl_custom in s3prl's hub."""
    if not _is_url(argument):
        return load_checkpoint(argument, device=device)
    name = Path(argument.partition("?")[0]).stem
    return load_file(download(argument), name, device, address=argument)


def load_default(argument: str, *, device: str) -> Upstream:
    """Return the upstream of a path or URL, or the shipped one, as mt4ssl in s3prl's hub."""
    if not argument:
        return load_file(shipped(), NAME, device, address=NAME)
    return load_custom(argument, device=device)


def mt4ssl_local(
    ckpt: str | None = None, model_config: object = None, refresh: object = None
) -> UpstreamExpert:
    """Return the model of a run folder or checkpoint file (entry of s3prl and torch.hub)."""
    del model_config, refresh  # s3prl passes both to every entry
    if ckpt is None:
        raise UpstreamError(
            "mt4ssl_local: ckpt is missing: the path of a run folder or checkpoint.pt"
        )
    return UpstreamExpert(ckpt)


def mt4ssl_url(
    ckpt: str | None = None, model_config: object = None, refresh: object = None
) -> UpstreamExpert:
    """Return the model of a URL, downloaded once, or again to `refresh` it (s3prl, torch.hub)."""
    del model_config
    if ckpt is None or not _is_url(ckpt):
        raise UpstreamError(f"mt4ssl_url: ckpt={ckpt}: expected the http(s) URL of a checkpoint.pt")
    return UpstreamExpert(download(ckpt, refresh=bool(refresh)))


def mt4ssl_custom(
    ckpt: str | None = None, model_config: object = None, refresh: object = None
) -> UpstreamExpert:
    """Return the model of a path or URL (entry of s3prl and torch.hub)."""
    entry = mt4ssl_url if ckpt is not None and _is_url(ckpt) else mt4ssl_local
    return entry(ckpt, model_config, refresh)


def mt4ssl(
    ckpt: str | None = None, model_config: object = None, refresh: object = None
) -> UpstreamExpert:
    """Return the shipped model, or that of a path or URL (entry of s3prl and torch.hub)."""
    if ckpt is None:
        return UpstreamExpert(shipped())
    return mt4ssl_custom(ckpt, model_config, refresh)


def register() -> None:
    """Add the entries to s3prl's hub, where it has no such names; see mt4ssl_local."""
    hub = s3prl_hub()
    for entry in (mt4ssl, mt4ssl_local, mt4ssl_url, mt4ssl_custom):
        if not hasattr(hub, entry.__name__):
            setattr(hub, entry.__name__, entry)


def download(url: str, *, refresh: bool = False) -> Path:
    """Return the local copy of a checkpoint at `url`, in torch.hub's folder.

    Raises:
        UpstreamError: If it cannot be downloaded.
        CheckpointError: If it is no checkpoint of this toolkit, or not complete.
    """
    name = f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{Path(url.partition('?')[0]).name}"
    hub = Path(torch.hub.get_dir())
    path = hub / "checkpoints" / name
    if refresh or not path.is_file():
        with holding(hub / ".locks" / name, FOREVER):
            if refresh or not path.is_file():  # another process may have downloaded it meanwhile
                _fetch(url, path)
    LOGGER.info("%s: %s", url, path)
    return path


def _fetch(url: str, path: Path) -> None:
    """Download a checkpoint and verify it; an existing file at `path` is kept on errors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"fresh-{path.name}")  # the suffix says what it is
    try:
        download_file(url, fresh)
        checkpoint.load(fresh)
        fresh.replace(path)
    except (OSError, DownloadError) as error:
        raise UpstreamError(
            f"{url}: could not be downloaded ({error}); fetch the file some other way and give its "
            "path instead (mt4ssl_local)"
        ) from None
    except CheckpointError as error:
        raise CheckpointError(f"{url}: {str(error).partition(': ')[2]}") from None
    finally:
        fresh.unlink(missing_ok=True)


def _is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))
