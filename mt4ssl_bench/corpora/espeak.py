"""eSpeak NG (GPL-3+), which speaks synthetic corpora; it has global state: one per process."""

import ctypes
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mt4ssl_bench.data.cut import Turn
from mt4ssl_bench.errors import BenchError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

STRESS = "',%=|:"  # and length, in eSpeak's names of phones
Split = Literal["train", "valid", "test"]


@dataclass(frozen=True)
class Voice:
    """One speaker: an eSpeak NG voice with a variant, and how it is set."""

    split: Split
    name: str  # language+variant
    rate: int  # words per minute
    pitch: int  # 0 to 100, 50 is the variant's own
    range: int  # of the pitch: 0 (monotone) to 100, 50 is the variant's own


# s01 is the first. The splits are mixed so that every beginning of the demo corpus's plan, from 4
# on, has all three.
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


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h; `name` has no final zero if it is full."""

    _fields_: ClassVar = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("name", ctypes.c_ubyte * 8),
    ]


class Espeak:
    """The library, loaded once. Its constants are those of speak_lib.h."""

    def __init__(self) -> None:
        import espeakng_loader

        data = str(espeakng_loader.get_data_path())
        self._library: Any = ctypes.CDLL(str(espeakng_loader.get_library_path()))
        synchronous, phoneme_events, do_not_exit = 2, 1, 0x8000
        self.rate = int(
            self._library.espeak_Initialize(
                synchronous, 0, os.fsencode(data), phoneme_events | do_not_exit
            )
        )
        if self.rate <= 0:
            raise BenchError(
                f"eSpeak NG cannot read its data in {data} (a path over 160 characters is cut)"
            )
        self._chunks: list[bytes] = []
        self._starts: list[tuple[int, str]] = []  # sample and name of each phone
        signature = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Event)
        )
        self._callback = signature(
            self._collect
        )  # kept: ctypes holds no reference to what it hands to C
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples: int | None, count: int, events: Iterable[_Event]) -> int:
        last, phone = 0, 7
        for event in itertools.takewhile(lambda event: event.type != last, events or ()):
            if event.type == phone:
                name = bytes(event.name).partition(b"\0")[0].decode(errors="replace")
                self._starts.append((event.sample, name))
        if samples and count > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * count))
        return 0  # go on

    def say(self, sentence: str, voice: Voice, seed: int) -> "npt.NDArray[np.int16]":
        """Return `sentence` as int16 (samples,) at self.rate.

        The seed fixes the noise in it, but the phase of eSpeak's pitch flutter carries over to the
        next utterance: the same bytes come from the same utterances in the same order, not from one
        alone.
        """
        import numpy as np

        if self._library.espeak_ng_SetVoiceByName(voice.name.encode()) != 0:
            raise BenchError(
                f"eSpeak NG has no voice {voice.name}; the [demo] extra may be of another version"
            )
        for parameter, value in ((1, voice.rate), (3, voice.pitch), (4, voice.range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        self._chunks.clear()
        self._starts.clear()
        text, by_character, utf8 = sentence.encode(), 1, 1
        size = ctypes.c_size_t(len(text) + 1)
        status = self._library.espeak_Synth(text, size, 0, by_character, 0, utf8, None, None)
        if status != 0 or not self._chunks:
            raise BenchError(f"eSpeak NG could not say {sentence!r} with voice {voice.name}")
        return np.frombuffer(b"".join(self._chunks), dtype=np.int16)

    def phones(self, samples: int) -> Iterator[Turn]:
        """Yield the phones of what was said last, of so many samples, without stress marks.

        A phone ends where the next one or a pause begins.
        """
        ends = [start for start, _ in self._starts[1:]] + [samples]
        for (start, name), end in zip(self._starts, ends, strict=True):
            label = "".join(c for c in name if c not in STRESS)
            if label.strip("_ ") and start < end:
                yield Turn(start / self.rate, end / self.rate, label)
