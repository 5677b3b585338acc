"""Audio files to text with a trained asr, phoneme or slots model.

Shapes: N samples, T frames, V outputs.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypedDict, cast

import torch
from torch import Tensor, nn

from mt4ssl_bench.console import progress
from mt4ssl_bench.corpora.audio_files import audio_files
from mt4ssl_bench.data import audio, audio_headers
from mt4ssl_bench.data.containers import defect_of
from mt4ssl_bench.data.effects import apply
from mt4ssl_bench.data.file_state import on_disk
from mt4ssl_bench.downstream.config import WordDecodeConfig
from mt4ssl_bench.downstream.heads.ctc import CTCTask
from mt4ssl_bench.downstream.training.finetuned_model import Tuned, TunedHead
from mt4ssl_bench.downstream.training.saved_model import (
    Stored,
    chosen_head,
    read_model,
    read_task,
)
from mt4ssl_bench.encoders.identity import is_of
from mt4ssl_bench.encoders.kind import rebuild
from mt4ssl_bench.encoders.load import load_upstream
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import BenchError, CheckpointError, ConfigError, CorpusError

LOGGER = logging.getLogger(__name__)
# longer audio is read in chunks, each with context on both sides
CHUNK, CONTEXT = 30 * audio.RATE, 2 * audio.RATE


class Search(TypedDict, total=False):
    """The keys of DecodeConfig and WordDecodeConfig that a call may change."""

    lm: str
    lexicon: str
    beam: int
    lm_weight: float
    word_score: float


def transcribe(
    model: Path,
    files: Sequence[Path],
    *,
    decode: Search | None = None,
    upstream: str = "",
    device: str = "cpu",
) -> Iterator[tuple[Path, str | None]]:
    """Yield each file with its text, None if it could not be read.

    Args:
        model: See Recognizer.
        files: Audio files, or folders of them.
        decode: Keys of decoding that differ from the recipe.
        upstream: See Recognizer.
        device: Torch device.

    Raises:
        BenchError: For a wrong model, language model or path, before any audio is read.
    """
    paths = named(files)
    recognizer = Recognizer(model, upstream=upstream, device=device)
    if decode:
        recognizer.use(decode)
    with progress(f"transcribe with {model.name}", len(paths)) as advance:
        for path in paths:
            text = None
            try:
                text = recognizer.text(audio.read_file(path))
                frames, rate, _ = audio_headers.probe(path)
                if defect := defect_of(path, frames=frames, rate=rate, search=True):
                    LOGGER.warning("%s: %s", path, defect[1])
            except BenchError as error:
                message = str(error) if str(path) in str(error) else f"{path}: {error}"
                LOGGER.error("%s", message)  # noqa: TRY400
            yield path, text
            advance(1, "")


def named(paths: Sequence[Path]) -> list[Path]:
    """Return the files, folders replaced by the audio files in them.

    Raises:
        CorpusError: If a path does not exist.
    """
    files: list[Path] = []
    for path in map(on_disk, paths):
        if not path.exists():
            raise CorpusError(f"{path}: no such file or folder")
        inside = list(audio_files(path)) if path.is_dir() else [path]
        if not inside:
            raise CorpusError(
                f"{path}: holds no audio file ({', '.join(sorted(audio_headers.SUFFIXES))})"
            )
        files += inside
    return files


class Recognizer:
    """A trained model of asr, phoneme or slots: audio to logits and text.

    Args:
        folder: Of <out>/runs of an evaluation, or its model.pt.
        upstream: For models on frozen features, the present name of the upstream; default: the
            name that it had in the evaluation.
        device: Torch device.
    """

    def __init__(self, folder: Path, *, upstream: str = "", device: str = "cpu") -> None:
        stored = read_model(folder)
        task = read_task(stored)
        if not isinstance(task, CTCTask):
            raise CheckpointError(
                f"{folder}: holds a model for task '{stored['task']}', which outputs no text"
            )
        self.task, self._decode = task, task.decode
        self._about, self._device = stored["upstream"], device
        if "encoder" in stored:
            self._model: nn.Module = self._tuned(stored)
        else:
            self._model = self._frozen(stored, upstream)
        self._model.to(device).eval()

    def use(self, decode: Search) -> None:
        """Decode by beam search with a language model from here on."""
        if not decode.get("lm"):
            raise ConfigError(
                f"{_options(decode)}: no effect without --lm; expected --lm, a KenLM file"
            )
        config = self.task.config.decode
        unread = [name for name in decode if not hasattr(config, name)]
        if unread:
            raise ConfigError(f"{_options(unread)}: task '{self.task.name}' does not read it")
        self._decode = self.task.beam(replace(cast("WordDecodeConfig", config), **decode)).decode

    def text(self, samples: audio.Samples) -> str:
        """Return the text of 16 kHz audio (N,)."""
        logits = self.logits(samples)
        return self._decode(logits[None], torch.tensor([len(logits)]))[0]

    @torch.no_grad()
    def logits(self, samples: audio.Samples) -> Tensor:
        """Return the logits (T, V) of 16 kHz audio (N,), read in overlapping chunks of 30 s."""
        waveform = torch.from_numpy(apply(self.task.effects, samples))
        if len(waveform) <= CHUNK:
            return self._read(waveform)
        stride = int(self._about["stride"])
        context = CONTEXT // stride  # frames
        parts = []
        for start in range(0, len(waveform), (CHUNK // stride - 2 * context) * stride):
            end = min(start + CHUNK, len(waveform))
            logits = self._read(waveform[start:end])
            last = end == len(waveform)
            parts.append(
                logits[context if start else 0 : None if last else CHUNK // stride - context]
            )
            if last:
                break
        return torch.cat(parts)

    def _read(self, waveform: Tensor) -> Tensor:
        logits, lengths = self._model(waveform[None], torch.tensor([len(waveform)]))
        rows: Tensor = logits[0, : int(lengths[0])].float().cpu()
        return rows

    def _tuned(self, stored: Stored) -> nn.Module:
        tune, about = self.task.config.tune, self._about
        head = TunedHead(about["num_layers"], about["dim"], self.task.outputs, tune, pooled=False)
        head.load_state_dict(stored["head"])
        return Tuned(rebuild(stored["blueprint"], tune, stored["encoder"]), head)

    def _frozen(self, stored: Stored, name: str) -> nn.Module:
        about = self._about
        upstream = load_upstream(name or about["source"] or about["name"], device=self._device)
        if not is_of(upstream, about["fingerprint"], where="the trained head"):
            raise CheckpointError(
                f"its head was trained on '{about['name']}' ({about['fingerprint']}), not on "
                f"'{upstream.name}' ({upstream.fingerprint}); --upstream names the right one"
            )
        head = self.task.head(about["num_layers"], about["dim"])
        head.load_state_dict(chosen_head(stored))
        return _Frozen(upstream, head)


def _options(names: Iterable[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


class _Frozen(nn.Module):
    """An upstream with a head on its features, called as Tuned is."""

    def __init__(self, upstream: Upstream, head: nn.Module) -> None:
        super().__init__()
        self.upstream, self.head = upstream, head

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        features = self.upstream.extract(waveforms, lengths)
        device = next(self.head.parameters()).device
        logits, frames = self.head(features.layers.to(device), features.lengths.cpu())
        return logits, frames
