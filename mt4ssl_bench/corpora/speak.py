"""Synthetic corpora: sentences spoken by eSpeak NG, always in a child process, and their table.

Writes 16 kHz mono FLAC, the phones in time (a CTM), the digest of the plan and last the table:
where the table exists, all of it does.
"""

import hashlib
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from mt4ssl_bench import console
from mt4ssl_bench.corpora.espeak import VOICES, Espeak
from mt4ssl_bench.data.audio import RATE
from mt4ssl_bench.errors import BenchError, CorpusError, first_line
from mt4ssl_bench.files import write_text
from mt4ssl_bench.wheels import missing

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PEAK = 0.9  # of full scale, before the gain: eSpeak's own level differs by 12 dB between voices
GAIN_DB = 6.0  # recordings are up to this much quieter than PEAK
NOISE = 1e-3  # rms of the noise floor, of full scale: -60 dB
PAUSE = (800, 3200)  # samples before and after the voice: 50 to 200 ms; eSpeak leaves none
MANIFEST, DIGEST = "manifest.tsv", "manifest.digest"
PHONES = "phones.ctm"  # when eSpeak speaks which phone; corpora of earlier versions have none


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """One utterance before it is spoken: `sentence` by voice number `voice` of VOICES.

    `cells` are further columns of the table.
    """

    id: str
    voice: int
    sentence: str
    cells: Mapping[str, str]

    @property
    def speaker(self) -> str:
        """The name of the voice, s01 is the first."""
        return f"s{self.voice + 1:02d}"

    @property
    def path(self) -> str:
        """The audio file, relative to the table."""
        return f"audio/{self.speaker}/{self.id}.flac"


def draw(*what: str | int) -> int:
    """Draw 64 bits, seeded by `what`: part of a digest, which no library's version can change."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, what)).encode()).digest()[:8], "big")


def speak(out: Path, plan: Sequence[Spoken], *, digest: str, title: str) -> Path:
    """Speak a plan into `out` through a child process, or find it spoken, and return its table.

    Args:
        out: Folder of the table, created if needed; the audio lies in out/audio.
        plan: Utterances with equal columns, in the order in which they are spoken.
        digest: Of all that decides what is spoken and how.
        title: Of the command, for messages.

    Raises:
        BenchError: Without the [demo] extra, or if eSpeak NG fails.
        CorpusError: If `out` has another table, or a finished corpus of another plan.
    """
    manifest, mark = out / MANIFEST, out / DIGEST
    if manifest.exists() and not mark.exists():
        raise CorpusError(
            f"{manifest}: not made by {title} and not replaced; choose another folder"
        )
    if manifest.exists() and mark.read_text(encoding="ascii").strip() == digest:
        return manifest
    if (out / "corpus.json").exists():  # whose audio would be replaced
        raise CorpusError(f"{out}: holds another corpus; choose another --out")
    if importlib.util.find_spec("espeakng_loader") is None:
        raise BenchError(missing(title, "demo"))
    out.mkdir(parents=True, exist_ok=True)
    manifest.unlink(missing_ok=True)
    seconds = dict(_spoken(out, plan, title))
    columns = ("id", "path", "duration_s", "speaker", "language", *plan[0].cells)
    rows = [
        (one.id, one.path, seconds[one.id], one.speaker, "en", *one.cells.values()) for one in plan
    ]
    write_text(mark, f"{digest}\n")
    write_text(manifest, "".join("\t".join(row) + "\n" for row in (columns, *sorted(rows))))
    return manifest


def _spoken(out: Path, plan: Sequence[Spoken], title: str) -> Iterator[tuple[str, str]]:
    """Yield the id and the seconds of each utterance that the child has spoken."""
    lines = "".join(json.dumps((one.id, one.voice, one.sentence, one.path)) + "\n" for one in plan)
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as orders,
        tempfile.TemporaryFile() as errors,  # not a second pipe, which could fill up meanwhile
    ):
        orders.write(lines)
        orders.seek(0)
        with (
            subprocess.Popen(
                [sys.executable, "-m", __name__, str(out)],
                stdin=orders,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            ) as child,
            console.progress(title, len(plan)) as advance,
        ):
            try:
                for line in child.stdout or ():
                    name, _, seconds = line.rstrip("\n").partition("\t")
                    yield name, seconds
                    advance(1, "")
            except BaseException:
                child.terminate()
                raise
            if child.wait() != 0:
                errors.seek(0)
                reason = errors.read().decode(errors="replace").strip().splitlines()
                raise BenchError(
                    f"{title}: {reason[-1] if reason else f'exit status {child.returncode}'}"
                )


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


def speak_here(out: Path, orders: IO[str]) -> None:
    """Write audio and phones in this process; prints id and seconds of each utterance done.

    Args:
        out: Folder of the table.
        orders: A line of JSON for each utterance: id, voice, sentence, path.
    """
    import soundfile
    import torch

    torch.set_num_threads(1)  # sums in one order whatever the machine
    espeak, phones = Espeak(), []
    (out / PHONES).unlink(missing_ok=True)
    for name, voice, sentence, place in map(json.loads, orders):
        seed, path = draw("sound", name), out / place
        voiced = espeak.say(sentence, VOICES[voice], seed % 2**31)
        wave, pause = _record(voiced, espeak.rate, seed)
        phones += [
            f"{name} 1 {pause + start:.4f} {end - start:.4f} {label}"
            for start, end, label in espeak.phones(len(voiced))
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".part")
        soundfile.write(aside, wave, RATE, format="FLAC", subtype="PCM_16")
        aside.replace(path)
        sys.stdout.write(f"{name}\t{len(wave) / RATE:.3f}\n")
        sys.stdout.flush()
    write_text(out / PHONES, "\n".join([*phones, ""]))


if __name__ == "__main__":
    try:
        speak_here(Path(sys.argv[1]), sys.stdin)
    except (BenchError, OSError) as error:
        sys.stderr.write(f"{first_line(error)}\n")
        sys.exit(2)
