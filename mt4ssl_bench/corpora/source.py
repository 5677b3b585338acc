"""Named corpora, from where they lie or from the web: catalogue, download and a layout's reader
joined.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mt4ssl_bench.corpora.download import Archive, fetch
from mt4ssl_bench.corpora.prepare import prepare_rows
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.registry import hint

Reader = Callable[[Path], Iterator[Row]]


def prepare_published(
    name: str,
    out: Path,
    read: Reader,
    *,
    source: Path | None,
    download: Sequence[str] | None = None,
    mirror: str = "",
    partial: bool = False,
    lexicon: Sequence[Path] = (),
    phones_from: str = "",
    notes: dict[str, str] | None = None,
) -> Corpus:
    """Make the named corpus of the catalogue.

    Args:
        read: the layout's reader, its options filled in.
        source: where the corpus lies, or where to download it to (default: <out>/source).
        download: the parts to fetch first; None takes what is there.
        mirror: an address that holds the same archives.

    Raises ConfigError for what cannot be downloaded, CorpusError for everything that a layout may
    lack.
    """
    entry = CATALOGUE[name]
    if download is not None:
        if not entry.archives:
            raise ConfigError(
                f"prepare {name}: cannot be downloaded by a program; {entry.obtain}; then use "
                "--from DIR"
            )
        for part in download:
            if part not in entry.archives:
                raise ConfigError(
                    f"prepare {name}: no part '{part}' to download; {hint(part, entry.archives)}"
                )
        source = source or out / "source"
        fetch([entry.archives[part] for part in download], source, mirror=mirror)
    elif source is None:
        ways = "--download fetches it" if entry.archives else entry.obtain
        raise ConfigError(f"prepare {name}: --from DIR says where it lies; {ways}")
    return prepare_rows(
        read(source),
        out,
        source=source,
        partial=partial,
        lexicon=lexicon,
        phones_from=phones_from,
        notes={"citation": entry.citation, "homepage": entry.homepage} | (notes or {}),
        name=name,
        licence=entry.licence,
    )


OPENSLR = "https://www.openslr.org/resources"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One corpus of the catalogue."""

    about: str
    hours: str = ""  # of audio, as its authors state them
    licence: str = ""
    tasks: str
    homepage: str = ""
    citation: str = ""
    archives: dict[str, Archive] = field(default_factory=dict)  # by part
    obtain: str = ""  # how to get it, where no program may


def _libri(part: str, md5: str) -> Archive:
    return Archive(f"{OPENSLR}/12/{part}.tar.gz", f"md5:{md5}")


CATALOGUE: dict[str, Entry] = {
    "librispeech": Entry(
        about="read English from audiobooks; SUPERB's corpus for phonemes and recognition",
        hours="960 + 21",
        licence="CC BY 4.0",
        tasks="pretrain, asr, phoneme, speaker",
        homepage="https://www.openslr.org/12",
        citation="Panayotov et al., Librispeech: an ASR corpus based on public domain audio books, "
        "ICASSP 2015",
        archives={  # checksums: openslr.org/resources/12/md5sum.txt
            "dev-clean": _libri("dev-clean", "42e2234ba48799c1f50f24a7926300a1"),
            "dev-other": _libri("dev-other", "c8d0bcc9cca99d4f8b62fcc847357931"),
            "test-clean": _libri("test-clean", "32fa31d27d2e1cad72775fee3f4849a9"),
            "test-other": _libri("test-other", "fb5a50374b501bb3bac4815ee91d3135"),
            "train-clean-100": _libri("train-clean-100", "2a93770f6d5c6c964bc36631d331a522"),
            "train-clean-360": _libri("train-clean-360", "c0e676e450a7ff2f54aeade5171606fa"),
            "train-other-500": _libri("train-other-500", "d1a0fd59409feb2c614ce4d30c387708"),
        },
    ),
    "librilight": Entry(
        about="English audiobooks without transcripts, and 10 min, 1 h and 10 h of LibriSpeech "
        "with them",
        hours="577 (small), 5,193 (medium), 51,934 (large); 10 labelled",
        licence="public domain (audio of LibriVox)",
        tasks="pretrain; labelled: asr, phoneme",
        homepage="https://github.com/facebookresearch/libri-light",
        citation="Kahn et al., Libri-light: a benchmark for ASR with limited or no supervision, "
        "ICASSP 2020",
        archives={
            # its publisher states no checksums; the labelled part's is that of torchaudio's
            # module librilight_limited
            "labelled": Archive(
                "https://dl.fbaipublicfiles.com/librilight/data/librispeech_finetuning.tgz",
                "sha256:5d1efdc777b548194d7e09ba89126e2188026df9fd57aa57eb14408d2b2342af",
            ),
            "small": Archive("https://dl.fbaipublicfiles.com/librilight/data/small.tar"),
            "medium": Archive("https://dl.fbaipublicfiles.com/librilight/data/medium.tar"),
            "large": Archive("https://dl.fbaipublicfiles.com/librilight/data/large.tar"),
        },
    ),
    "voxceleb1": Entry(
        about="interviews of 1,251 celebrities; SUPERB's corpus for speaker identification",
        hours="352",
        licence="CC BY-SA 4.0 (metadata); the audio is YouTube's users'",
        tasks="pretrain, speaker",
        homepage="https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox1.html",
        citation="Nagrani et al., VoxCeleb: a large-scale speaker identification dataset, "
        "Interspeech 2017",
        obtain="ask its authors for the audio, unpack both archives into one folder and put "
        "iden_split.txt beside wav/",
    ),
    "speechcommands": Entry(
        about="single English words by thousands of speakers (version 0.02)",
        hours="30",
        licence="CC BY 4.0",
        tasks="pretrain, asr, phoneme",
        homepage="https://arxiv.org/abs/1804.03209",
        citation="Warden, Speech Commands: a dataset for limited-vocabulary speech recognition, "
        "2018",
        archives={
            "v0.02": Archive(  # the checksum is torchaudio's (speechcommands.py)
                "http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
                "sha256:af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
            )
        },
    ),
    "timit": Entry(
        about="read American English with hand-made phone labels",
        hours="5",
        licence="LDC (LDC93S1)",
        tasks="pretrain, asr, phoneme, speaker",
        homepage="https://catalog.ldc.upenn.edu/LDC93S1",
        citation="Garofolo et al., TIMIT acoustic-phonetic continuous speech corpus, LDC 1993",
        obtain="order it from the LDC and name the folder that holds TRAIN and TEST",
    ),
    "speechocean762": Entry(
        about="English sentences read by learners, half of them children, phones by annotators",
        hours="6",
        licence="CC BY 4.0",
        tasks="pretrain, asr, phoneme, speaker",
        homepage="https://www.openslr.org/101",
        citation="Zhang et al., speechocean762: an open-source non-native English speech corpus, "
        "Interspeech 2021",
        archives={
            "speechocean762": Archive(f"{OPENSLR}/101/speechocean762.tar.gz")
        },  # no checksum is published
    ),
    "fsdd": Entry(
        about="Free Spoken Digit Dataset: 3,000 English digits by six speakers, 8 kHz",
        hours="0.4",
        licence="CC BY-SA 4.0",
        tasks="asr, phoneme, speaker",
        homepage="https://github.com/Jakobovski/free-spoken-digit-dataset",
        citation="Jackson et al., Free Spoken Digit Dataset v1.0.10, Zenodo 2020",
        archives={  # GitHub makes the archive anew, so that no checksum holds for long
            "fsdd": Archive(
                "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.tar.gz"
            )
        },
    ),
    "table": Entry(about="a TSV of your own", tasks="what its columns allow"),
    "folder": Entry(about="any tree of audio files", tasks="pretrain"),
    "fairseq": Entry(
        about="fairseq's .tsv lists with .ltr, .wrd or .km beside them",
        tasks="pretrain; with .ltr or .wrd: asr, phoneme",
    ),
    "lhotse": Entry(
        about="Lhotse's manifests, cuts or Shar: whatever its 100 and more recipes write",
        tasks="what its supervisions allow",
    ),
    "kaldi": Entry(
        about="Kaldi's data folders: wav.scp with files, segments, text, utt2spk",
        tasks="what its files allow",
    ),
    "hf": Entry(
        about="a dataset of Hugging Face, by its name or on disk (the extra hf-data)",
        tasks="what its columns allow",
    ),
    "demo": Entry(
        about="synthetic English speech ([demo]); checks the code, not models",
        hours="0.5",
        licence="MIT (sentences), spoken by eSpeak NG",
        tasks="pretrain, asr, phoneme, speaker",
    ),
}
