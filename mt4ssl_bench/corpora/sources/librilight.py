"""Libri-light: its subsets without transcripts and its sets with."""

from collections.abc import Iterator
from pathlib import Path

from mt4ssl_bench.corpora.audio_files import audio_files
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.sources.common import root_of
from mt4ssl_bench.corpora.sources.librispeech import _chapters, librispeech


def librilight(given: Path, *, subset: str) -> Iterator[Row]:
    """Yield Libri-light's recordings without transcripts: <subset>/<speaker>/<book>/*.flac."""
    root = root_of(given, f"Libri-light's {subset}", f"{subset}/*/*/*.flac")
    for file in audio_files(root / subset):
        speaker, *rest = file.relative_to(root / subset).with_suffix("").parts
        yield Row(
            id="-".join([speaker, *rest]), path=file, speaker=speaker, language="en", split="train"
        )


LABELLED = {
    "10min": ("1h/0",),
    "1h": ("1h/*",),
    "10h": ("1h/*", "9h"),
}  # Kahn et al.: the 10 h are 1 h and 9 h more


def librilight_labelled(
    given: Path, *, amount: str, librispeech_folder: Path | None
) -> Iterator[Row]:
    """Yield Libri-light's 10min, 1h or 10h for training, and LibriSpeech's dev and test parts where
    they are given.
    """
    root = root_of(given, "Libri-light's labelled part", "1h/*/*/*/*/*.trans.txt")
    for folder in LABELLED[amount]:
        yield from _chapters(root, f"{folder}/*/*/*", "train")
    if librispeech_folder is not None:
        yield from librispeech(
            librispeech_folder, train=(), valid=("dev-clean",), test=("test-clean",)
        )
