"""Upstreams of s3prl's hub behind the Upstream protocol: hidden states stacked, frames counted.

Shapes: L hidden states, B batch, N samples, T frames, D dimension.
"""

import contextlib
import inspect
import io
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from mt4ssl_bench.checkpoint import fingerprint
from mt4ssl_bench.data.audio import RATE
from mt4ssl_bench.encoders.finetuning import Blueprint, TuneConfig, TunedForeign
from mt4ssl_bench.encoders.identity import describe, identify
from mt4ssl_bench.encoders.kind import ENCODERS, EncoderKind
from mt4ssl_bench.encoders.origin import Origin, checkpoint_origin
from mt4ssl_bench.encoders.protocol import Features, Upstream
from mt4ssl_bench.encoders.s3prl_entries import (
    Entry,
    Expert,
    downloads,
    files,
    scheme_1_code,
    seeded,
    sources,
)
from mt4ssl_bench.errors import UpstreamError, first_line, some, with_class
from mt4ssl_bench.registry import hint
from mt4ssl_bench.wheels import advice, is_mismatch

LOGGER = logging.getLogger(__name__)
SECOND = RATE  # samples


def s3prl_names() -> list[str]:
    """Return every upstream name of the installed s3prl; its hub takes some seconds to import."""
    hub = s3prl_hub()  # whose options() also list classes that it imports for itself
    return sorted(
        name
        for name in hub.options(only_registered_ckpt=False)
        if inspect.isfunction(getattr(hub, name))
    )


class S3PRLUpstream:
    """An s3prl upstream behind the protocol: its hidden states, stacked.

    Args:
        name: A name of s3prl's hub, with ":<file>" if the entry takes one.
        device: A torch device.
        verify: Build the model from two seeds: a weight that differs is not in the checkpoint, and
            UpstreamError is raised if features depend on it.
    """

    def __init__(self, name: str, device: str, *, verify: bool = True) -> None:
        hub = s3prl_hub()
        model, _, argument = name.partition(":")
        names = s3prl_names()
        if model not in names:
            raise UpstreamError(
                f"unknown upstream '{model}': no such file or folder, and not in s3prl's hub; "
                f"{hint(model, {*names, *ENCODERS, 'random:mt4ssl_tiny'})}"
            )
        entry: Entry = getattr(hub, model)
        options = _entry_options(model, entry, argument)
        try:
            with downloads() as used:
                built = seeded(entry, options, seed=0)
            self.parameters = sum(p.numel() for p in built.parameters())
            again = seeded(entry, options, seed=1) if verify and self.parameters else built
        except Exception as error:  # noqa: BLE001 - each of 196 hub entries fails in its own way
            raise UpstreamError(f"upstream '{name}': {_why_not_built(model, error)}") from None
        self.name, self.device = name, device
        self.origin = _origin(used, options)
        self.blueprint: Blueprint = {"kind": "s3prl", "name": name}
        self.anchor: tuple[int, int] | None = None
        self.model = again.to(device).eval()
        self.stride = int(self.model.get_downsample_rates("hidden_states"))
        state = {k: v for k, v in built.state_dict().items() if isinstance(v, Tensor)}
        settings = describe(built)
        unread = self._unread(built.to(device).eval()) if again is not built else set()
        self.model = built
        layers = self._layers_of(SECOND)
        self.num_layers, self.dim = layers.shape[0], layers.shape[-1]
        self._identify(state, unread, settings, entry, options)
        self.calibrate()

    def _layers_of(self, samples: int) -> Tensor:
        """Return the hidden states (L, 1, T, D) of the first `samples` of a second of noise."""
        noise = torch.randn(1, SECOND, generator=torch.Generator().manual_seed(0))
        return self.extract(noise[:, :samples], torch.tensor([samples])).layers

    def _unread(self, built: Expert) -> set[str]:
        """Return the weights that differ from those of `built`, the same model from another seed.

        Raises:
            UpstreamError: If the features of noise differ, too.
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
                    features.append(self._layers_of(SECOND))
            if not torch.equal(*features):
                raise UpstreamError(
                    f"upstream '{self.name}': {len(random)} weights are not in its checkpoint "
                    f"({some(random)}), s3prl initialized them randomly; expected every weight "
                    "that features depend on; use a complete checkpoint"
                )
        return random

    def _identify(
        self,
        state: Mapping[str, Tensor],
        unread: set[str],
        settings: object,
        entry: Entry,
        options: Mapping[str, str],
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

    def calibrate(self) -> None:
        """Find how many frames the model gives for any number of samples, by running it on noise.

        Sets `anchor` (samples, frames): the fewest samples that give as many frames as a second
        does. From there, every `stride` samples give one frame more, so that an utterance's own
        frames are known in any batch. It stays None if a model does not count like this: s3prl's
        rule, samples / stride rounded, is used then.
        """
        frames, low, high = self._layers_of(SECOND).shape[2], SECOND - self.stride, SECOND
        if self._layers_of(low).shape[2] != frames - 1:
            LOGGER.info("%s: calibrate() found no rule; frames are samples / stride", self.name)
            return
        while high - low > 1:  # about log2(stride) runs
            middle = (low + high) // 2
            enough = self._layers_of(middle).shape[2] == frames
            low, high = (low, middle) if enough else (middle, high)
        self.anchor = high, frames
        LOGGER.info(
            "%s: calibrate() found %d frames in %d samples and one more every %d",
            self.name,
            frames,
            high,
            self.stride,
        )

    @torch.no_grad()
    def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
        """See Upstream.extract; raises UpstreamError where the model's layers differ in shape."""
        return self.hidden_states(waveforms, lengths)

    # s3prl's models keep their own settings
    def trainable(self, config: object) -> nn.Module:  # noqa: ARG002
        """See Trainable: the model is built again, since s3prl's hooks do not survive copying."""
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


def _origin(used: Mapping[str, Path], options: Mapping[str, str]) -> Origin:
    """Return the checkpoint of a model, {} without one; of downloads it is the largest file."""
    given = Path(options.get("ckpt", ""))
    if used:
        url = max(used, key=lambda url: used[url].stat().st_size)
        return checkpoint_origin(used[url], url)
    return checkpoint_origin(given) if given.is_file() else {}


def _entry_options(model: str, entry: Entry, argument: str) -> dict[str, str]:
    """Return the keyword arguments of a hub entry.

    `argument` is the file of its checkpoint or of its settings.
    """
    wanted = [p.name for p in inspect.signature(entry).parameters.values() if p.default is p.empty]
    key = "model_config" if "model_config" in wanted else "ckpt"
    beside = Path(inspect.getfile(entry)).parent / argument  # s3prl's own log_stft_mag.yaml
    if argument and key == "model_config" and not Path(argument).exists() and beside.is_file():
        argument = str(beside)
    if (model.endswith("_local") or key == "model_config") and not Path(argument).is_file():
        raise UpstreamError(
            f"upstream '{model}': no such file '{argument}'; write {model}:<path of a file>"
        )
    takes_checkpoint = model.endswith(("_local", "_custom", "_url", "_gdriveid"))
    if not argument and takes_checkpoint:
        raise UpstreamError(f"upstream '{model}': needs a checkpoint; write {model}:<path or URL>")
    # else the published model would run under the file's name
    if argument and not takes_checkpoint and key == "ckpt":
        raise UpstreamError(
            f"upstream '{model}': has weights of its own and takes no '{argument}'; "
            f"{_local_entries(model)}"
        )
    return {key: argument} if argument else {}


def _why_not_built(model: str, error: Exception) -> str:
    """Return one line: the error, where s3prl keeps its downloads, and entries that take a file."""
    if isinstance(error, OSError) and not model.startswith(
        "hf_"
    ):  # a download, or a file that cannot be read
        from s3prl.util.download import get_dir

        return (
            f"s3prl could not build it ({with_class(error)}); its downloads are kept in "
            f"{get_dir()}; entries whose name ends in _local take a file that you have "
            f"({_local_entries(model)})"
        )
    if model.startswith("hf_"):
        return (
            f"s3prl could not build it ({first_line(error)}); an id of Hugging Face needs the "
            "network, the folder of a model that save_pretrained() wrote does not: "
            f"{model}:<folder>"
        )
    return f"s3prl could not build it ({first_line(error)})"


def _local_entries(model: str) -> str:
    return hint(f"{model}_local", [name for name in s3prl_names() if name.endswith("_local")])


def load_s3prl(argument: str, *, device: str) -> Upstream:
    """Return the s3prl upstream called `argument` ("hubert", "fbank", "hubert_local:path")."""
    return S3PRLUpstream(argument, device)


def s3prl_hub() -> ModuleType:
    """Return s3prl's hub; its import takes seconds, so it waits until it is asked for."""
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
    module: ModuleType = hub
    return module


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what s3prl prints."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def rebuild_s3prl(blueprint: Blueprint, config: TuneConfig) -> nn.Module:  # noqa: ARG001
    """Return the module of a blueprint; s3prl may download the model again."""
    return TunedForeign(S3PRLUpstream(str(blueprint["name"]), "cpu", verify=False))


KIND = EncoderKind(
    "s3prl",
    "any upstream of s3prl's hub, for example fbank, hubert",
    load_s3prl,
    rebuild_s3prl,
    example="<s3prl name>",
    names=s3prl_names,
)
