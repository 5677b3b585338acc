"""Upstreams of s3prl's hub behind the Upstream protocol: hidden states stacked, frames counted."""

import contextlib
import inspect
import io
import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from mt4ssl_bench.checkpoint import fingerprint
from mt4ssl_bench.encoders.finetuning import TuneConfig
from mt4ssl_bench.encoders.identity import describe, identify
from mt4ssl_bench.encoders.protocol import LOADERS, Features, Upstream
from mt4ssl_bench.encoders.s3prl_entries import files, scheme_1_code, seeded, sources
from mt4ssl_bench.errors import UpstreamError, first_line, some
from mt4ssl_bench.registry import hint
from mt4ssl_bench.wheels import advice, is_mismatch

SECOND = 16_000  # samples


def s3prl_names() -> list[str]:
    """Return every upstream name of the installed s3prl; its hub takes some seconds to import."""
    hub = s3prl_hub()  # whose options() also list classes that it imports for itself
    return sorted(
        name
        for name in hub.options(only_registered_ckpt=False)
        if inspect.isfunction(getattr(hub, name))
    )


class S3PRLUpstream:
    """An s3prl upstream behind our protocol: its hidden states, stacked.

    With `verify` the model is built twice, from two seeds: a weight that differs is not in the
    checkpoint, and UpstreamError is raised where features depend on it.
    """

    def __init__(self, name: str, device: str, *, verify: bool = True) -> None:
        hub = s3prl_hub()
        model, _, argument = name.partition(":")
        names = s3prl_names()
        if model not in names:
            raise UpstreamError(
                f"unknown upstream '{model}': no such file or folder, and not in s3prl's hub; "
                f"{hint(model, {*names, *LOADERS, 'random:mt4ssl_tiny'})}"
            )
        entry = getattr(hub, model)
        options = _entry_options(model, entry, argument)
        try:
            built = seeded(entry, options, seed=0)
            self.parameters = sum(p.numel() for p in built.parameters())
            again = seeded(entry, options, seed=1) if verify and self.parameters else built
        except Exception as error:  # noqa: BLE001 - each of 196 hub entries fails in its own way
            raise UpstreamError(f"upstream '{name}': {_why_not_built(model, error)}") from None
        self.name, self.device = name, device
        self.blueprint = {"kind": "s3prl", "name": name}
        self.anchor: tuple[int, int] | None = None
        self.model = again.to(device).eval()
        self.stride = int(cast("Any", self.model).get_downsample_rates("hidden_states"))
        state = {k: v for k, v in built.state_dict().items() if isinstance(v, Tensor)}
        settings = describe(built)
        noise = torch.randn(1, SECOND, generator=torch.Generator().manual_seed(0))
        unread = self._unread(built.to(device).eval(), noise) if again is not built else set()
        self.model = built
        probe = self.extract(noise, torch.tensor([SECOND]))
        self.num_layers, self.dim = probe.layers.shape[0], probe.layers.shape[-1]
        self.anchor = self._anchor(noise)
        self._identify(state, unread, settings, entry, options)

    def _unread(self, built: nn.Module, noise: Tensor) -> set[str]:
        """Return the weights that differ from those of `built`, the same model from another seed.

        Raises:
            UpstreamError: If the features of the noise (1, N) differ, too.
        """
        ours = self.model.state_dict()
        random = {
            name
            for name, theirs in built.state_dict().items()
            if isinstance(theirs, Tensor)
            and fingerprint({"": theirs}) != fingerprint({"": ours[name]})
        }
        if random:
            features = []
            for model in (self.model, built):
                with torch.random.fork_rng():
                    torch.manual_seed(0)
                    self.model = model
                    features.append(self.extract(noise, torch.tensor([SECOND])).layers)
            if not torch.equal(*features):
                raise UpstreamError(
                    f"upstream '{self.name}': {len(random)} weights are not in its checkpoint "
                    f"({some(random)}), s3prl initialized them randomly; expected every weight "
                    "that features depend on; use a complete checkpoint"
                )
        return random

    def _identify(
        self,
        state: dict[str, Tensor],
        unread: set[str],
        settings: object,
        entry: Callable[..., Any],
        options: dict[str, str],
    ) -> None:
        """Set the fingerprints; models without weights (fbank, mel) are their code and settings."""
        read = {name: tensor for name, tensor in state.items() if name not in unread}
        if self.parameters:
            self.fingerprint = identify(read, settings)
            old = fingerprint(state)
        else:
            self.fingerprint = identify(read, [settings, sources(entry), files(entry, options)])
            old = fingerprint({**state, "code": scheme_1_code(entry, options)})
        # a file that the user names brings settings with it, which scheme 1 did not digest
        covered = not (self.parameters and options)
        self.former: tuple[str, ...] = (old,) if covered else ()
        self.insufficient: tuple[str, ...] = () if covered else (old,)

    def _anchor(self, noise: Tensor) -> tuple[int, int] | None:
        """Return (samples, frames): the least samples that give as many frames as a second does.

        From there, every `stride` samples give one frame more, so that an utterance's own frames
        are known in any batch. None where a model does not count like this.
        """

        def count(samples: int) -> int:
            return self.extract(noise[:, :samples], torch.tensor([samples])).layers.shape[2]

        frames, low, high = count(SECOND), SECOND - self.stride, SECOND
        if count(low) != frames - 1:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if count(middle) == frames else (middle, high)
        return high, frames

    @torch.no_grad()
    def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
        """See Upstream.extract; raises UpstreamError where the model's layers differ in shape."""
        return self.hidden_states(waveforms, lengths)

    # s3prl's models keep their own settings
    def trainable(self, config: object) -> nn.Module:  # noqa: ARG002
        """See tuning.Trainable: the model built anew, since s3prl's hooks do not survive
        copying.
        """
        from mt4ssl_bench.encoders.finetuning import TunedForeign

        return TunedForeign(S3PRLUpstream(self.name, self.device, verify=False))

    def hidden_states(self, waveforms: Tensor, lengths: Tensor) -> Features:
        """Return what extract() does, with gradients."""
        waves = [
            wave[:length].to(self.device)
            for wave, length in zip(waveforms, lengths.tolist(), strict=True)
        ]
        hidden = self.model(waves)["hidden_states"]
        if len({tuple(h.shape) for h in hidden}) != 1:
            raise UpstreamError(
                f"upstream '{self.name}': its hidden states differ in shape; one size is needed"
            )
        layers = torch.stack(list(hidden))  # (L, B, T, D)
        if self.anchor:
            samples, count = self.anchor
            frames = count + torch.div(lengths.cpu() - samples, self.stride, rounding_mode="floor")
        else:  # s3prl's own rule (s3prl/nn/upstream.py)
            frames = torch.tensor([round(n / self.stride) for n in lengths.tolist()])
        return Features(layers, frames.clamp(1, layers.shape[2]))


def _entry_options(model: str, entry: Callable[..., Any], argument: str) -> dict[str, str]:
    """Return the keyword arguments of a hub entry: what stands after the colon is its checkpoint or
    its settings.
    """
    wanted = [p.name for p in inspect.signature(entry).parameters.values() if p.default is p.empty]
    key = "model_config" if "model_config" in wanted else "ckpt"
    beside = (
        Path(inspect.getfile(entry)).parent / argument
    )  # stft_mag:log_stft_mag.yaml lies in s3prl itself
    if argument and key == "model_config" and not Path(argument).exists() and beside.is_file():
        argument = str(beside)
    if (model.endswith("_local") or key == "model_config") and not Path(argument).is_file():
        raise UpstreamError(
            f"upstream '{model}': no such file '{argument}'; write {model}:<path of a file>"
        )
    takes_checkpoint = model.endswith(("_local", "_custom", "_url", "_gdriveid"))
    if not argument and takes_checkpoint:
        raise UpstreamError(f"upstream '{model}': needs a checkpoint; write {model}:<path or URL>")
    if (
        argument and not takes_checkpoint and key == "ckpt"
    ):  # the published model would run under the file's name
        near = hint(f"{model}_local", [name for name in s3prl_names() if name.endswith("_local")])
        raise UpstreamError(
            f"upstream '{model}': has weights of its own and takes no '{argument}'; {near}"
        )
    return {key: argument} if argument else {}


def _why_not_built(model: str, error: Exception) -> str:
    """Return one line: which download failed and how to do without it, or what else s3prl said."""
    near = hint(f"{model}_local", [name for name in s3prl_names() if name.endswith("_local")])
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "_download" and "url" in frame.f_locals:  # s3prl.util.download
            url, file = frame.f_locals["url"], frame.f_locals["filepath"]
            return (
                f"s3prl could not download {url} ({type(error).__name__}); fetch it some other way "
                f"and keep it as {file}, or give the path of one that you have to an entry whose "
                f"name ends in _local ({near})"
            )
    if model.startswith("hf_"):
        return (
            f"s3prl could not build it ({first_line(error)}); an id of Hugging Face needs the "
            "network, the folder of a model that save_pretrained() wrote does not: "
            f"{model}:<folder>"
        )
    return f"s3prl could not build it ({first_line(error)})"


def load_s3prl(argument: str, *, device: str) -> Upstream:
    """Return the s3prl upstream called `argument` ("hubert", "fbank", "hubert_local:path")."""
    return S3PRLUpstream(argument, device)


def s3prl_hub() -> Any:  # noqa: ANN401 - s3prl ships no types
    """Return s3prl's hub, whose import prints and takes some seconds: only when an s3prl upstream
    is asked for.
    """
    try:
        with _quiet():
            import s3prl.hub as hub
    except Exception as error:  # noqa: BLE001 - whatever its imports raise
        if is_mismatch(error):
            raise UpstreamError(f"s3prl: {advice(error)}") from None
        raise UpstreamError(
            f"s3prl's hub cannot be imported ({first_line(error)}); the maintained fork can: pip "
            "install espnet-s3prl"
        ) from None
    return hub


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what s3prl prints."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def rebuild_s3prl(blueprint: dict[str, Any], config: TuneConfig) -> nn.Module:
    """Return the s3prl upstream of a blueprint, built anew: s3prl may have to download it once
    more.
    """
    return S3PRLUpstream(str(blueprint["name"]), "cpu").trainable(config)
