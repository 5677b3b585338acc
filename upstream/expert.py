"""Our checkpoints as upstreams: behind this toolkit's protocol and, through register(), in s3prl's
hub.
"""

import hashlib
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mt4ssl_bench import checkpoint
from mt4ssl_bench.data.audio import RATE
from mt4ssl_bench.data.download import DownloadError
from mt4ssl_bench.data.download import download as download_file
from mt4ssl_bench.data.frame_grid import STRIDE
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.encoders.s3prl_model import s3prl_hub
from mt4ssl_bench.errors import CheckpointError, UpstreamError
from mt4ssl_bench.upstream.checkpoints.checkpoint_file import read_model
from mt4ssl_bench.upstream.checkpoints.encoder_adapter import _load, hidden_states, load_checkpoint

LOGGER = logging.getLogger(__name__)


class UpstreamExpert(nn.Module):
    """The s3prl side of a checkpoint: waveforms in, {"hidden_states": [...]} out.

    Gradients flow in train mode.

    A dropped layer is the identity, so that the number of hidden states is always the same.
    """

    def __init__(self, ckpt: str | Path) -> None:
        super().__init__()
        self.model = read_model(Path(ckpt))

    def get_downsample_rates(self, key: str = "") -> int:  # noqa: ARG002 - s3prl's signature
        """Return the stride in samples per frame."""
        return STRIDE

    def forward(self, wavs: list[Tensor], sample_rate: int = RATE) -> dict[str, Any]:
        """Return the hidden states, each (B, T, D), of 16 kHz waveforms (N_b,) on the device of the
        weights.

        Raises UpstreamError for another sample rate and for what is not a list of float waveforms
        with one channel.
        """
        if sample_rate != RATE:
            raise UpstreamError(f"audio at {sample_rate} Hz: expected {RATE}; resample it first")
        layers, _ = hidden_states(self.model, wavs)
        return {"hidden_states": layers, "last_hidden_state": layers[-1]}


def load_custom(argument: str, *, device: str) -> Upstream:
    """Return the upstream of a path or URL: what mt4ssl_custom is in s3prl's hub."""
    if not _is_url(argument):
        return load_checkpoint(argument, device=device)
    return _load(download(argument), Path(argument.partition("?")[0]).stem, device)


def load_default(argument: str, *, device: str) -> Upstream:
    """Return what mt4ssl is in s3prl's hub: the default checkpoint, or the path or URL that is
    named.
    """
    if not argument:
        mt4ssl()
    return load_custom(argument, device=device)


def mt4ssl_local(
    ckpt: str | None = None, model_config: object = None, refresh: object = None
) -> UpstreamExpert:
    """s3prl and torch.hub entry: an MT4SSL run folder or checkpoint file.

    Its config is in the file.
    """
    del model_config, refresh  # s3prl passes both to every entry
    if ckpt is None:
        raise UpstreamError(
            "mt4ssl_local: ckpt is missing: the path of a run folder or checkpoint.pt"
        )
    return UpstreamExpert(ckpt)


def mt4ssl_url(
    ckpt: str | None = None, model_config: object = None, refresh: object = None
) -> UpstreamExpert:
    """s3prl and torch.hub entry: the URL of a checkpoint file, downloaded once.

    Refresh=True downloads it again.
    """
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
    """s3prl and torch.hub entry: the default checkpoint, once there is one.

    Until then a path or URL is needed.
    """
    if ckpt is None:
        raise UpstreamError(
            "mt4ssl: no checkpoint is published yet; train one (mt4ssl-bench pretrain mt4ssl_base "
            "data.corpus=... --out runs/base) and use mt4ssl_local with ckpt=runs/base"
        )
    return mt4ssl_custom(ckpt, model_config, refresh)


def register() -> None:
    """Add our entries to s3prl's hub, so that S3PRLUpstream("mt4ssl_local", path) works.

    Never replaces a name.
    """
    hub = s3prl_hub()
    for entry in (mt4ssl, mt4ssl_local, mt4ssl_url, mt4ssl_custom):
        if not hasattr(hub, entry.__name__):
            setattr(hub, entry.__name__, entry)


def download(url: str, *, refresh: bool = False) -> Path:
    """Return the local copy of a checkpoint at `url`, kept in torch.hub's folder.

    A copy is whole and ours, or is not.

    Raises UpstreamError when it cannot be fetched, CheckpointError when it is not a checkpoint of
    ours.
    """
    name = f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{Path(url.partition('?')[0]).name}"
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if refresh or not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{name}.fresh")
        try:
            download_file(url, fresh)
            checkpoint.load(fresh)
            fresh.replace(path)
        except (OSError, DownloadError) as error:
            raise UpstreamError(
                f"{url}: could not be downloaded ({error}); fetch the file some other way and give "
                "its path instead (mt4ssl_local)"
            ) from None
        except CheckpointError as error:
            raise CheckpointError(f"{url}: {str(error).partition(': ')[2]}") from None
        finally:
            fresh.unlink(missing_ok=True)
    LOGGER.info("%s: %s", url, path)
    return path


def _is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))
