"""Libri-light: its subsets without transcripts and its sets with transcripts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from mt4ssl_bench.corpora.audio_files import audio_files
from mt4ssl_bench.corpora.download import Archive
from mt4ssl_bench.corpora.layout import root_of
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.source import Options, Source
from mt4ssl_bench.corpora.sources import librispeech

FOLDS = {"10min": ("1h/0",), "1h": ("1h/*",), "10h": ("1h/*", "9h")}  # Kahn et al.: they nest
DATA = "https://dl.fbaipublicfiles.com/librilight/data"


@dataclass(frozen=True, kw_only=True)
class LibriLight(Options):
    """Which part, and where LibriSpeech is."""

    subset: Annotated[
        Literal["small", "medium", "large"], "Subset without transcripts, for pretraining."
    ] = "small"
    labelled: Annotated[
        Literal["10min", "1h", "10h"] | None, "Set with transcripts, instead of a subset."
    ] = None
    librispeech: Annotated[
        Path | None, "LibriSpeech's folder, for valid (dev-clean) and test (test-clean)."
    ] = None

    def parts(self) -> Sequence[str]:
        """Return the one archive."""
        return ["labelled" if self.labelled else self.subset]

    def notes(self) -> Mapping[str, str]:
        """Return the part."""
        return {"part": self.labelled or self.subset}


def read(given: Path, options: LibriLight) -> Iterator[Row]:
    """Yield the recordings of a subset, or a labelled set and LibriSpeech's dev and test parts."""
    if options.labelled:
        root = root_of(given, "Libri-light's labelled part", "1h/*/*/*/*/*.trans.txt")
        for fold in FOLDS[options.labelled]:
            yield from librispeech.chapters(root, f"{fold}/*/*/*", "train")
        if options.librispeech is not None:
            yield from librispeech.read(options.librispeech, librispeech.LibriSpeech(train=""))
        return
    subset = options.subset
    root = root_of(given, f"Libri-light's {subset}", f"{subset}/*/*/*.flac")
    for file in audio_files(root / subset):
        speaker, *rest = file.relative_to(root / subset).with_suffix("").parts
        yield Row(
            id="-".join([speaker, *rest]), path=file, speaker=speaker, language="en", split="train"
        )


SOURCE = Source(
    name="librilight",
    about="English audiobooks without transcripts, and 10 min, 1 h and 10 h of LibriSpeech "
    "with them",
    read=read,
    options=LibriLight,
    help="Recordings of the subsets are up to an hour long: 'mt4ssl-bench segment' cuts them for "
    "pretraining.",
    examples=(
        "librilight --from librilight --subset small --out corpora/librilight_small",
        "librilight --labelled 10h --download --librispeech LibriSpeech --out corpora/ll10h",
    ),
    hours="577 h (small), 5,193 h (medium), 51,934 h (large); 10 h with transcripts",
    licence="public domain (audio of LibriVox)",
    tasks="pretrain; with transcripts: asr, phoneme",
    homepage="https://github.com/facebookresearch/libri-light",
    citation="Kahn et al., Libri-light: a benchmark for ASR with limited or no supervision, "
    "ICASSP 2020",
    archives={
        # its publisher states no checksums; the labelled part's is that of torchaudio's
        # module librilight_limited
        "labelled": Archive(
            f"{DATA}/librispeech_finetuning.tgz",
            "sha256:5d1efdc777b548194d7e09ba89126e2188026df9fd57aa57eb14408d2b2342af",
        ),
        "small": Archive(f"{DATA}/small.tar"),
        "medium": Archive(f"{DATA}/medium.tar"),
        "large": Archive(f"{DATA}/large.tar"),
    },
)
