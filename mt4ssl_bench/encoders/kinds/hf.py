"""Hugging Face upstreams: any model over waveforms that transformers loads, by folder or hub id.

Shapes: L hidden states (encoder input and every layer), B batch, N samples, T frames, D dimension.
"""

import copy
import json
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from mt4ssl_bench.checkpoint import fingerprint
from mt4ssl_bench.data.audio import RATE
from mt4ssl_bench.encoders.finetuning import Blueprint, TuneConfig, TunedForeign
from mt4ssl_bench.encoders.hidden_states import LEAK, padding_leak
from mt4ssl_bench.encoders.hub import OFFLINE, commit_of, split_revision
from mt4ssl_bench.encoders.identity import identify
from mt4ssl_bench.encoders.kind import EncoderKind
from mt4ssl_bench.encoders.origin import Origin, checkpoint_origin
from mt4ssl_bench.encoders.protocol import Features, Upstream
from mt4ssl_bench.errors import UpstreamError, some
from mt4ssl_bench.wheels import advice, is_mismatch, missing

LOGGER = logging.getLogger(__name__)
PATCHING = threading.Lock()
# attention's memory grows as the square of the length; the first layer of a base model takes 6 MB
# a second
MAX_SECONDS = 600
UNUSED = {"masked_spec_embed"}  # weights that only masking reads, and no masks are drawn here
# settings that do not belong to the model
WHERE_FROM = {"_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"}


class Loaded(NamedTuple):
    """A model in fp32, its feature extractor, and transformers' loading report."""

    model: Any  # an nn.Module whose `config` differs by model type
    extractor: Any
    info: Mapping[str, Any]
    origin: Origin


def import_transformers(what: str) -> ModuleType:
    """Return the transformers module, quiet.

    Raises:
        UpstreamError: If it is not installed; the message says what to install for `what`.
    """
    try:
        import huggingface_hub
        import transformers
        import transformers.audio_utils  # imports torchaudio, as do its feature extractors
    except (ImportError, OSError, RuntimeError) as error:
        if is_mismatch(error):
            raise UpstreamError(f"{what}: {advice(error)}") from None
        raise UpstreamError(missing(what, "hf")) from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    huggingface_hub.logging.set_verbosity_error()
    module: ModuleType = transformers
    return module


def load_model(name: str) -> Loaded:
    """Load a model by folder or hub id; no code of the model's repository is run.

    Args:
        name: A folder, or "<hub id>" or "<hub id>@<branch, tag or commit>".

    Raises:
        UpstreamError: If the model cannot be loaded, or if its file lacks a weight that features
            depend on: transformers initializes such weights randomly.
    """
    transformers = import_transformers(f"hf:{name}")
    if not name:
        raise UpstreamError(
            "hf: name a folder or a hub id, for example hf:facebook/hubert-base-ls960"
        )
    path, revision = split_revision(name)
    weights = Path(path, "model.safetensors")
    origin = checkpoint_origin(weights, path) if weights.is_file() else {"address": path}
    commit = None
    if not Path(path).is_dir():
        commit = commit_of(path, revision)
        LOGGER.info("hf:%s: commit %s, from the cache or from huggingface.co", name, commit)
        origin = {"repository": path, "revision": revision or "main", "commit": commit}
    try:
        model, info = transformers.AutoModel.from_pretrained(
            path,
            revision=commit,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # check_weights() names them all, with their shapes
        )
        extractor = transformers.AutoFeatureExtractor.from_pretrained(path, revision=commit)
    # transformers raises many kinds, all meaning the same to the user
    except Exception as error:  # noqa: BLE001
        reason = " ".join(str(error).split()).split(" Check your internet")[0][:200]
        raise UpstreamError(
            f"hf:{name}: transformers cannot load it ({reason}); {OFFLINE}"
        ) from None
    check_weights(f"hf:{name}", info)
    return Loaded(model, extractor, info, origin)


def check_weights(name: str, info: Mapping[str, Any]) -> None:
    """Raise UpstreamError for weights that the loading report calls missing or of another shape."""
    missing = [key for key in info["missing_keys"] if key.rpartition(".")[2] not in UNUSED]
    shapes = [
        f"{key} is {tuple(theirs)}, not {tuple(ours)}"
        for key, theirs, ours in info["mismatched_keys"]
    ]
    wrong = [
        f"{len(keys)} weights {what} ({some(keys)})"
        for what, keys in (("missing", missing), ("of another shape", shapes))
        if keys
    ]
    if wrong:
        raise UpstreamError(
            f"{name}: {' and '.join(wrong)}; expected every weight that config.json asks for "
            "(transformers would initialize them randomly); save the model again with "
            "save_pretrained()"
        )


class HuggingFaceUpstream:
    """A Hugging Face speech encoder behind the protocol, with the hidden states of transformers.

    The model's feature extractor takes each utterance on its own, so that it normalizes real
    samples only. The attention mask is given if the model was trained with one
    (return_attention_mask). Where padding changes features, which is measured when a model is
    loaded, its front end takes each utterance on its own, too: a group norm averages over time.
    Where that does not help, as with several positional convolutions, only utterances of equal
    length are run together, never padded.
    """

    def __init__(self, argument: str, device: str) -> None:
        model, self.extractor, _, self.origin = load_model(argument)
        self.config = model.config
        folder = Path(argument).resolve() if Path(argument).is_dir() else None
        self.name = f"hf:{folder.name if folder else argument}"
        # a branch may move on: what is rebuilt is this commit's model
        pinned = f"{self.origin['repository']}@{self.origin['commit']}" if not folder else ""
        self.blueprint: Blueprint = {"kind": "hf", "name": pinned or str(folder)}
        self._check()
        self.model: nn.Module = model.to(device).eval().requires_grad_(requires_grad=False)
        self.device = device
        self.geometry = list(zip(model.config.conv_kernel, model.config.conv_stride, strict=True))
        self.stride = 1
        for _, stride in self.geometry:
            self.stride *= stride
        self.masked = bool(self.extractor.return_attention_mask)
        self.parameters = sum(p.numel() for p in model.parameters())
        self._identify()
        self.pads, self.apart = True, False  # for the probes
        layers = self.extract(torch.zeros(1, RATE), torch.tensor([RATE])).layers
        self.num_layers, self.dim = layers.shape[0], layers.shape[-1]
        self.pads = padding_leak(self.extract) <= LEAK
        if not self.pads and hasattr(model, "feature_extractor"):
            self.pads = self.apart = True
            self.pads = self.apart = padding_leak(self.extract) <= LEAK

    @torch.no_grad()
    def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
        """See Upstream.extract.

        Raises:
            UpstreamError: If audio is shorter than a frame or longer than MAX_SECONDS.
        """
        return self.hidden_states(waveforms, lengths)

    # the model keeps its own dropouts
    def trainable(self, config: object) -> nn.Module:  # noqa: ARG002
        """See Trainable: a copy without masks, which transformers draws from numpy's global state.

        No layer is dropped: its hidden state would be missing.
        """
        upstream = copy.deepcopy(self)
        upstream.config.apply_spec_augment, upstream.config.layerdrop = False, 0.0
        return TunedForeign(upstream)

    def hidden_states(self, waveforms: Tensor, lengths: Tensor) -> Features:
        """Return what extract() does, with gradients."""
        frames = self.frame_counts(lengths)
        if int(frames.min()) < 1:
            raise UpstreamError(
                f"{self.name}: audio of {int(lengths.min())} samples is too short for one frame"
            )
        if int(lengths.max()) > MAX_SECONDS * RATE:
            seconds = int(lengths.max()) / RATE
            raise UpstreamError(
                f"{self.name}: audio of {seconds:.0f} s, at most {MAX_SECONDS}; cut it into "
                "utterances"
            )
        groups = [list(range(len(lengths)))]
        if not self.pads:
            groups = [
                (lengths == n).nonzero()[:, 0].tolist() for n in sorted(set(lengths.tolist()))
            ]
        parts = [self._run(waveforms[rows], lengths[rows]) for rows in groups]
        longest = max(part.shape[2] for part in parts)
        shape = (parts[0].shape[0], len(lengths), longest, parts[0].shape[-1])
        layers = parts[0].new_zeros(shape)  # (L, B, T, D)
        for rows, part in zip(groups, parts, strict=True):
            layers[:, rows, : part.shape[2]] = part
        return Features(layers, frames)

    def frame_counts(self, lengths: Tensor) -> Tensor:
        """Return the number of frames (B,) that the convolutions make of `lengths` (B,) samples."""
        for kernel, stride in self.geometry:
            lengths = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
        return lengths.cpu().clamp(min=0)

    def _run(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """Return the hidden states (L, B, T, D) of one batch, padded where lengths differ."""
        waves = [
            torch.from_numpy(
                self.extractor(wave[:length].cpu().numpy(), sampling_rate=RATE).input_values[0]
            )
            for wave, length in zip(waveforms.float(), lengths.tolist(), strict=True)
        ]
        values = nn.utils.rnn.pad_sequence(waves, batch_first=True).to(self.device)
        mask, uneven = None, len(set(lengths.tolist())) > 1  # (B, N)
        if uneven and (self.masked or self.apart):
            mask = (torch.arange(values.shape[1]) < lengths.cpu()[:, None]).long().to(self.device)
        with self._front_end_apart(lengths) if uneven and self.apart else nullcontext():
            output = self.model(values, attention_mask=mask, output_hidden_states=True)
        layers = torch.stack(output.hidden_states)
        if layers.shape[2] != int(self.frame_counts(lengths).max()):
            raise UpstreamError(
                f"{self.name}: {layers.shape[2]} frames of {int(lengths.max())} samples, "
                f"its convolutions make {int(self.frame_counts(lengths).max())}: not an encoder of "
                "plain frames"
            )
        return layers

    @contextmanager
    def _front_end_apart(self, lengths: Tensor) -> Iterator[None]:
        """Run the convolutions on each utterance of `lengths` (B,) samples without its padding.

        One thread at a time: the model's own method is replaced meanwhile.
        """
        front_end = cast("nn.Module", self.model.feature_extractor)
        together = partial(type(front_end).forward, front_end)

        def forward(values: Tensor) -> Tensor:
            """Return (B, C, T) of values (B, N)."""
            rows = [
                together(row[None, :length])[0].t()
                for row, length in zip(values, lengths.tolist(), strict=True)
            ]
            return nn.utils.rnn.pad_sequence(rows, batch_first=True).transpose(1, 2)

        with PATCHING:
            front_end.forward = forward
            try:
                yield
            finally:
                del front_end.forward  # the method of its class is seen again

    def _check(self) -> None:
        """Raise UpstreamError if the model does not read 16 kHz waveforms frame by frame."""
        if (
            not hasattr(self.config, "conv_stride")
            or self.extractor.model_input_names[0] != "input_values"
        ):
            raise UpstreamError(
                f"{self.name}: a {self.config.model_type} model does not read waveforms frame by "
                "frame"
            )
        if self.extractor.sampling_rate != RATE:
            raise UpstreamError(
                f"{self.name}: made for {self.extractor.sampling_rate} Hz, expected {RATE}"
            )

    def _identify(self) -> None:
        """Set the fingerprints, of the weights and all settings of the model and its extractor."""
        # a default that is spelled out is no difference
        settings = _settings(self.config.to_diff_dict())
        extractor = _settings(self.extractor.to_dict())
        weights = self.model.state_dict()
        read = {name: t for name, t in weights.items() if name.rpartition(".")[2] not in UNUSED}
        self.fingerprint = identify(read, [self.config.model_type, settings, extractor])
        settings |= {
            "do_normalize": self.extractor.do_normalize,
            "return_attention_mask": self.masked,
        }
        text = json.dumps(settings, sort_keys=True, default=str).encode()
        identity = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        self.former = (fingerprint({**weights, "settings": identity}),)  # of scheme 1


def _settings(values: Mapping[str, object]) -> dict[str, object]:
    """Return settings without those that say where a model comes from."""
    return {k: v for k, v in values.items() if k not in WHERE_FROM | {"processor_class"}}


def rebuild(blueprint: Blueprint, config: TuneConfig) -> nn.Module:
    """Return the module of a blueprint; its folder or hub id must still exist."""
    return HuggingFaceUpstream(str(blueprint["name"]), "cpu").trainable(config)


def load_huggingface(argument: str, *, device: str) -> Upstream:
    """Return the Hugging Face encoder of a folder, "<hub id>" or "<hub id>@<revision>"."""
    return HuggingFaceUpstream(argument, device)


KIND = EncoderKind(
    "hf",
    "a Hugging Face speech encoder, by folder or hub id, which a revision may follow",
    load_huggingface,
    rebuild,
    example="hf:<folder, id or id@revision>",
)
