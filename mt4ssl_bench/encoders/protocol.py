"""The Upstream protocol, all that downstream knows of a model, and the ways to get one by name.

Shapes: L hidden states (encoder input and every layer), B batch, N samples, T frames, D dimension.
"""

import contextlib
import inspect
import io
import logging
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from mt4ssl_bench.checkpoint import fingerprint
from mt4ssl_bench.encoders.identity import describe, identify
from mt4ssl_bench.encoders.names import is_run
from mt4ssl_bench.encoders.s3prl_entries import files, scheme_1_code, seeded, sources
from mt4ssl_bench.errors import BenchError, UpstreamError, first_line, some
from mt4ssl_bench.registry import Registry, hint
from mt4ssl_bench.wheels import advice, is_mismatch

LOGGER = logging.getLogger(__name__)
SECOND = 16_000  # samples


class Features(NamedTuple):
    """What an upstream makes of a batch: `layers` (L, B, T, D) and the real frames `lengths` (B,)."""

    layers: Tensor
    lengths: Tensor


@runtime_checkable
class Upstream(Protocol):
    """A frozen model; `stride` is in samples per frame.

    `fingerprint` identifies the model: it changes whenever the features can. Two attributes are
    optional, and only needed to find results of earlier releases, whose fingerprints were digests
    by another scheme (see identity.py):

    * `former`, a tuple of str: earlier fingerprints that determined this very model; records,
      features and labels under them are used.
    * `insufficient`, a tuple of str: earlier fingerprints that this model shared with others;
      what is stored under them is named in the log and computed again.
    """

    name: str
    num_layers: int
    dim: int
    stride: int
    fingerprint: str
    parameters: int

    def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
        """Return the features of zero-padded 16 kHz waveforms (B, N) of `lengths` (B,), without gradient."""
        ...


class Loader(Protocol):
    """Builds an upstream from what stands after its prefix."""

    def __call__(self, argument: str, *, device: str) -> Upstream:
        """Return the upstream; raises BenchError when it cannot be built."""
        ...


# how a name is read: "prefix:argument", a path to one of our runs, else an s3prl name
LOADERS: Registry[Loader] = Registry(
    "kind of upstream",
    {
        "checkpoint": "mt4ssl_bench.upstream.expert:load_checkpoint",
        "mt4ssl": "mt4ssl_bench.upstream.expert:load_default",
        "mt4ssl_local": "mt4ssl_bench.upstream.expert:load_checkpoint",  # the names that register() adds to s3prl's hub
        "mt4ssl_url": "mt4ssl_bench.upstream.expert:load_custom",
        "mt4ssl_custom": "mt4ssl_bench.upstream.expert:load_custom",
        "hf": "mt4ssl_bench.encoders.hf_model:load_huggingface",
        "random": "mt4ssl_bench.upstream.expert:load_random",
        "file": "mt4ssl_bench.encoders.user_file:load_file",
        "s3prl": "mt4ssl_bench.encoders.protocol:load_s3prl",
    },
)


def load_upstream(name: str, *, device: str = "cpu") -> Upstream:
    """Return the upstream called `name`.

    A run folder or checkpoint, <loader>:<argument> (random:<recipe>), file.py:Class, or any s3prl upstream.
    Raises UpstreamError, ConfigError or CheckpointError for a name that leads nowhere.
    """
    kind, colon, argument = name.partition(":")
    if colon and kind in list(LOADERS):
        return LOADERS.get(kind)(argument, device=device)
    if kind.endswith(".py"):
        return LOADERS.get("file")(name, device=device)
    loader = _kind(name)
    return LOADERS.get(loader)("" if loader == "mt4ssl" else name, device=device)


def _kind(name: str) -> str:
    """Return the loader of a name without a prefix: of a path, or of a name in s3prl's hub.

    A folder that holds no checkpoint of ours gives way to a hub name.
    """
    path, hub = Path(name), "mt4ssl" if name == "mt4ssl" else "s3prl"
    plain = "/" not in name and not name.endswith(".pt")  # could be a hub's name
    if not path.exists():
        return hub if plain or ":" in name else "checkpoint"
    if not (plain and _in_hub(name)):
        return "checkpoint"
    if is_run(path):
        LOGGER.info("%s: taken as the run ./%s, not as the hub's upstream of that name", name, name)
        return "checkpoint"
    LOGGER.info("%s: taken as the hub's upstream; ./%s holds no checkpoint.pt", name, name)
    return hub


def _in_hub(name: str) -> bool:
    try:
        return name == "mt4ssl" or name in s3prl_names()
    except UpstreamError:  # without s3prl a folder can only be ours
        return False


def load_each(
    names: Sequence[str], *, device: str, failed: Callable[[str, BenchError], None]
) -> Iterator[tuple[str, Upstream]]:
    """Yield (name, upstream) for every name that loads; failed() hears of the others, if there are several names.

    Raises the first one's BenchError when none loads.
    """
    errors: list[BenchError] = []
    for name in names:
        try:
            upstream = load_upstream(name, device=device)
        except BenchError as error:
            if len(names) == 1:
                raise
            errors.append(error)
            failed(name, error)
        else:
            yield name, upstream
    if errors and len(errors) == len(names):
        raise errors[0]


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

        From there, every `stride` samples give one frame more, so that an utterance's own frames are known in any
        batch. None where a model does not count like this.
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

    def trainable(self, config: object) -> nn.Module:  # noqa: ARG002 - s3prl's models keep their own settings
        """See tuning.Trainable: the model built anew, since s3prl's hooks do not survive copying."""
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
    """Return the keyword arguments of a hub entry: what stands after the colon is its checkpoint or its settings."""
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
                f"s3prl could not download {url} ({type(error).__name__}); fetch it some other way and keep it as "
                f"{file}, or give the path of one that you have to an entry whose name ends in _local ({near})"
            )
    if model.startswith("hf_"):
        return (
            f"s3prl could not build it ({first_line(error)}); an id of Hugging Face needs the network, "
            f"the folder of a model that save_pretrained() wrote does not: {model}:<folder>"
        )
    return f"s3prl could not build it ({first_line(error)})"


def load_s3prl(argument: str, *, device: str) -> Upstream:
    """Return the s3prl upstream called `argument` ("hubert", "fbank", "hubert_local:path")."""
    return S3PRLUpstream(argument, device)


def s3prl_hub() -> Any:  # noqa: ANN401 - s3prl ships no types
    """Return s3prl's hub, whose import prints and takes some seconds: only when an s3prl upstream is asked for."""
    try:
        with _quiet():
            import s3prl.hub as hub
    except Exception as error:  # noqa: BLE001 - whatever its imports raise
        if is_mismatch(error):
            raise UpstreamError(f"s3prl: {advice(error)}") from None
        raise UpstreamError(
            f"s3prl's hub cannot be imported ({first_line(error)}); the maintained fork can: pip install espnet-s3prl"
        ) from None
    return hub


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what s3prl prints."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
