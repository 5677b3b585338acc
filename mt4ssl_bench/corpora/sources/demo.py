"""The demo corpus: sentences spoken by eSpeak NG (GPL-3+, has global state), always in its own
process.
"""

import argparse
import hashlib
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from mt4ssl_bench import console
from mt4ssl_bench.corpora.espeak import Espeak, Split, Voice
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.source import NOTHING, Options, Source
from mt4ssl_bench.corpora.sources.table import read_table
from mt4ssl_bench.data.alignment import read_alignment
from mt4ssl_bench.errors import BenchError, CorpusError
from mt4ssl_bench.files import write_text

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

VERSION = 1  # of the sound that a plan makes; raise it when the same plan would sound different
RATE = 16_000  # Hz
PEAK = 0.9  # of full scale, before the gain: eSpeak's own level differs by 12 dB between voices
GAIN_DB = 6.0  # recordings are up to this much quieter than PEAK
NOISE = 1e-3  # rms of the noise floor, of full scale: -60 dB
PAUSE = (
    800,
    3200,
)  # samples before and after the voice: 50 to 200 ms, for eSpeak itself leaves none
TAKES = 2  # voices that speak each sentence
SID_TEST, SID_VALID, SID_CYCLE = {1, 8, 14}, {2, 9, 15}, 20  # 15 % each; all splits in three turns
MANIFEST, DIGEST = "manifest.tsv", "manifest.digest"
PHONES = "phones.ctm"  # when eSpeak speaks which phone; corpora of earlier versions have none

SHARES: dict[Split, float] = {"test": 0.2, "valid": 0.1, "train": 0.7}  # of the sentences


# s01 is the first. The splits are mixed so that every beginning of the plan, from 4 on, has all
# three.
VOICES = (
    Voice("train", "en-us+f1", 165, 50, 55),
    Voice("train", "en-us+m1", 160, 45, 60),
    Voice("test", "en-us+f3", 170, 42, 50),
    Voice("valid", "en-us+m7", 165, 55, 45),
    Voice("train", "en-gb-x-rp+f4", 155, 46, 65),
    Voice("test", "en+m3", 160, 58, 60),
    Voice("valid", "en-us+Annie", 160, 44, 40),
    Voice("train", "en-gb-scotland+m4", 165, 62, 60),
    Voice("train", "en-us+belinda", 170, 55, 60),
    Voice("test", "en-us+m8", 155, 52, 70),
    Voice("train", "en-us+max", 175, 66, 45),
    Voice("train", "en-029+f5", 165, 52, 45),
    Voice("train", "en-us+Michael", 150, 40, 55),
    Voice("train", "en-gb-scotland+steph", 160, 60, 75),
    Voice("train", "en-us+m2", 145, 72, 50),
    Voice("train", "en-us+f2", 150, 38, 70),
)


@dataclass(frozen=True)
class Utterance:
    """One line of the manifest before it is spoken."""

    id: str  # speaker-sentence, for example s03-0127
    speaker: str
    sentence: str  # as written, with punctuation
    split: Split  # disjoint by speaker and by sentence
    sid_split: Split  # for telling the speakers apart: each speaker is in all three

    @property
    def path(self) -> str:
        """The audio file, relative to the corpus."""
        return f"audio/{self.speaker}/{self.id}.flac"

    @property
    def text(self) -> str:
        """The transcript: upper case, without punctuation except the apostrophe."""
        return "".join(c for c in self.sentence if c.isalpha() or c in " '").upper()


def read_sentences() -> list[str]:
    """Read the sentences, as written; their number, from 0, is part of an utterance's id."""
    return (
        (resources.files("mt4ssl_bench.corpora.sources") / "demo_sentences.txt")
        .read_text(encoding="ascii")
        .splitlines()
    )


def build_plan(limit: int | None = None) -> list[Utterance]:
    """Return who says what, the voices taking turns; a `limit` keeps the first so many.

    VOICES says which split a speaker belongs to, SHARES divides the sentences, and each of these is
    spoken by TAKES voices of its split. Raises BenchError for a limit below 1.
    """
    if limit is not None and limit < 1:
        raise BenchError(f"demo limit {limit}: expected at least 1 utterance")
    sentences, turns = read_sentences(), []
    for speaker, numbers in _share_out(len(sentences)).items():
        name, split = f"s{speaker:02d}", VOICES[speaker - 1].split
        for turn, (_, number) in enumerate(sorted((_draw("turn", name, n), n) for n in numbers)):
            made = Utterance(
                f"{name}-{number:04d}", name, sentences[number], split, _sid_split(turn)
            )
            turns.append((turn, speaker, made))
    return [made for _, _, made in sorted(turns, key=lambda item: item[:2])][:limit]


def _share_out(count: int) -> dict[int, list[int]]:
    """Return speaker (from 1) -> the sentences (from 0) that it speaks."""
    said: dict[int, list[int]] = {speaker: [] for speaker in range(1, len(VOICES) + 1)}
    order, begin, shares = (
        sorted(range(count), key=lambda number: _draw("sentence", number)),
        0,
        0.0,
    )
    for split, share in SHARES.items():
        shares += share
        end = round(shares * count)
        own = [speaker for speaker in said if VOICES[speaker - 1].split == split]
        for i, number in enumerate(order[begin:end]):
            shift = 1 + i // len(own) % (
                len(own) - 1
            )  # others meet each round; no voice is drawn twice
            for take in range(TAKES):
                said[own[(i + take * shift) % len(own)]].append(number)
        begin = end
    return said


def _sid_split(turn: int) -> Split:
    place = turn % SID_CYCLE
    return "test" if place in SID_TEST else "valid" if place in SID_VALID else "train"


def _draw(*what: str | int) -> int:
    """Draw 64 bits, seeded by `what`: part of a digest, which no library's version can change."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, what)).encode()).digest()[:8], "big")


def plan_digest(plan: Sequence[Utterance]) -> str:
    """Return the digest of everything that decides what is spoken and how."""
    settings = (VERSION, RATE, PEAK, GAIN_DB, NOISE, PAUSE, VOICES, tuple(plan))
    return hashlib.sha256(repr(settings).encode()).hexdigest()[:16]


def speak(out: Path, *, limit: int | None = None) -> Path:
    """Make the demo corpus through a child process, or find it made, and return its manifest.

    Writes 16 kHz mono FLAC to out/audio, the plan's digest to out/manifest.digest and last
    out/manifest.tsv.

    Args:
        out: folder of the corpus, created if needed.
        limit: only the first so many utterances of the plan.

    Raises BenchError without the [demo] extra or if eSpeak NG fails, CorpusError if `out` has
    another corpus.
    """
    plan = build_plan(limit)
    if _is_made(out, plan):
        return out / MANIFEST
    _require_espeak()
    command = [
        sys.executable,
        "-m",
        "mt4ssl_bench.corpora.sources.demo",
        str(out),
        f"--limit={len(plan)}",
    ]
    with (
        # not a second pipe, which could fill up while we read the first
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as child,
        console.progress("demo", len(plan)) as advance,
    ):
        try:
            for _ in child.stdout or ():
                advance(1, "")
        except BaseException:
            child.terminate()
            raise
        if child.wait() != 0:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines()
            raise BenchError(
                f"prepare demo: {lines[-1] if lines else f'exit status {child.returncode}'}"
            )
    return out / MANIFEST


def _is_made(out: Path, plan: Sequence[Utterance]) -> bool:
    manifest, digest = out / MANIFEST, out / DIGEST
    if manifest.exists() and not digest.exists():
        raise CorpusError(
            f"{manifest}: not made by prepare demo and not replaced; choose another folder"
        )
    return manifest.exists() and digest.read_text(encoding="ascii").strip() == plan_digest(plan)


def _require_espeak() -> None:
    if importlib.util.find_spec("espeakng_loader") is None:
        raise BenchError("prepare demo needs the [demo] extra: pip install 'mt4ssl-bench[demo]'")


def _record(
    samples: "npt.NDArray[np.int16]", rate: int, seed: int
) -> tuple["npt.NDArray[np.int16]", float]:
    """Return int16 at RATE, (samples,), with this utterance's own level, pauses and noise floor.

    And the seconds of the pause before the voice.
    """
    import numpy as np
    import torch
    from torchaudio.functional import resample

    wave = resample(torch.from_numpy(samples.astype(np.float32)), rate, RATE).numpy()
    noise = np.random.default_rng(seed)
    gain_db = -noise.uniform(0, GAIN_DB)
    wave *= PEAK * 10 ** (gain_db / 20) / np.abs(wave).max()
    pauses = noise.integers(*PAUSE, size=2)
    wave = np.pad(wave, pauses)
    wave += noise.normal(0, NOISE, len(wave))
    scaled: npt.NDArray[np.int16] = np.round(wave * 32767).astype(np.int16)
    return scaled, float(pauses[0]) / RATE


def _write_corpus(out: Path, plan: Sequence[Utterance]) -> None:
    """Write audio, digest and, last, the manifest; prints one line for each utterance done."""
    import soundfile
    import torch

    torch.set_num_threads(
        1
    )  # sums in one order whatever the machine; resampling is a small part of the time
    espeak = Espeak()
    for speaker in range(1, len(VOICES) + 1):
        (out / "audio" / f"s{speaker:02d}").mkdir(parents=True, exist_ok=True)
    (out / MANIFEST).unlink(missing_ok=True)
    (out / PHONES).unlink(missing_ok=True)
    rows, phones = [], []
    for made in plan:
        voice, seed = VOICES[int(made.speaker[1:]) - 1], _draw("sound", made.id)
        voiced = espeak.say(made.sentence, voice, seed % 2**31)
        wave, pause = _record(voiced, espeak.rate, seed)
        phones += [
            f"{made.id} 1 {pause + start:.4f} {end - start:.4f} {label}"
            for start, end, label in espeak.phones(len(voiced))
        ]
        aside = (out / made.path).with_suffix(".part")
        soundfile.write(aside, wave, RATE, format="FLAC", subtype="PCM_16")
        aside.replace(out / made.path)
        row = (made.id, made.path, f"{len(wave) / RATE:.3f}", made.speaker, "en", made.text)
        rows.append("\t".join((*row, made.split, made.sid_split)))
        sys.stdout.write(f"{made.id}\n")
        sys.stdout.flush()
    header = "id path duration_s speaker language text split sid_split".replace(" ", "\t")
    (out / DIGEST).write_text(f"{plan_digest(plan)}\n", encoding="ascii", newline="\n")
    write_text(out / PHONES, "\n".join([*phones, ""]))
    write_text(out / MANIFEST, "\n".join([header, *sorted(rows), ""]))


def read(out: Path, _: Options) -> Iterator[Row]:
    """Yield the demo corpus, spoken into `out` unless it is there."""
    manifest = speak(out)
    phones = manifest.with_name(PHONES)
    yield from read_table(manifest, {"phones": read_alignment(phones)} if phones.exists() else None)


SOURCE = Source(
    name="demo",
    about="Synthetic English speech (extra: demo), to check the code, not models",
    read=read,
    options=Options,
    takes=NOTHING,
    help="""30 minutes with transcripts, phonemes and 16 speakers. Needs the [demo] extra (eSpeak
    NG, GPL-3+). Scores on it check the code; they are not a speech benchmark.""",
    examples=("demo --out corpora/demo",),
    hours="0.5 h",
    licence="MIT (sentences); audio synthesised with eSpeak NG",
    tasks="pretrain, asr, phoneme, speaker, abx",
    phones_from="manifest",
    strict=True,
    synthetic=True,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Speak the corpus in this process: OUT [--limit N].

    Returns the exit status, the reason on stderr.
    """
    parser = argparse.ArgumentParser(
        prog="python -m mt4ssl_bench.corpora.sources.demo", description="Speak the demo corpus."
    )
    parser.add_argument("out", type=Path, help="folder of the corpus")
    parser.add_argument("--limit", type=int, help="only the first so many utterances")
    options = parser.parse_args(arguments)
    try:
        plan = build_plan(options.limit)
        if not _is_made(options.out, plan):
            _require_espeak()
            _write_corpus(options.out, plan)
    except (BenchError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
