"""The rules that a corpus is checked by.

Rows pass through one at a time; only counts and digests are kept.
"""

import itertools
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

from mt4ssl_bench.corpora.check_report import Collector, Compared, Report, SplitFacts
from mt4ssl_bench.corpora.classes import EVALUATION, Classes
from mt4ssl_bench.corpora.rows import ATTRIBUTES, Row, is_quoted, miscounted, out_of_place
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.corpus import SID_PREFIX
from mt4ssl_bench.data.lexicon import APOSTROPHES
from mt4ssl_bench.data.resampling import TABLE, table_size

SHORT, LONG = 0.1, 60.0  # seconds: below four frames; above what a batch can hold
FRAMES = 50  # a second, of every encoder here
SLOW = 0.5  # letters a second
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ufffd\ufeff\u200b-\u200f]")
DIGIT = re.compile(r"\d")
MARKUP = re.compile(r"[<>\[\]{}*=_|]")
PUNCTUATION = re.compile(r"[.,;:!?\"\u201c-\u201f\u2026()&%@#/]")
TEXTS = {"digits": DIGIT, "markup": MARKUP, "punctuation": PUNCTUATION}


class _Part(NamedTuple):
    """The place of an utterance in its file, in seconds; parts are compared within a file."""

    file: bytes  # digest
    start: float
    end: float
    split: str
    name: str  # "" in training, which is never named
    spoken: bool  # whether it has a speaker


class Rules:
    """Takes the rows of every split, then says what is wrong with them.

    Args:
        fields: what every utterance of the corpus should have, as corpus.json says.
        compared: what the rows' content is the digest of.

    A corpus's `sid_` splits hold utterances of the others again, so that only the rules about
    speakers apply to them.
    """

    def __init__(self, fields: Sequence[str], compared: Compared = "bytes") -> None:
        self.fields, self.compared = fields, compared
        self.found = Collector()
        self.sizes: Counter[str] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.rates: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self.speakers: dict[str, Counter[str]] = {}
        self.classes = Classes()
        self._symbols: dict[
            tuple[str, str], dict[str, str]
        ] = {}  # (kind, split) -> symbol -> its first utterance
        self._ids: set[bytes] = set()
        self._files: set[tuple[str, str]] = set()  # of several utterances, by defect: named once
        self._contents: dict[bytes, str] = {}  # digest of audio -> the first split that has it
        self._parts: list[_Part] = []
        self._texts: dict[
            str, dict[bytes, str]
        ] = {}  # split -> digest of text -> its first utterance

    def add(self, split: str, row: Row, stored: str = "") -> None:
        """Take one utterance of `split`.

        Args:
            split: The split.
            row: The utterance.
            stored: Its content as the corpus has it, where that of `row` is a digest of samples.
        """
        self.sizes[split] += 1
        self.seconds[split] += row.duration
        self.rates[split][row.rate] += 1
        if row.speaker:
            self.speakers.setdefault(split, Counter())[row.speaker] += 1
        self._content(split, row, stored or row.content)
        if split.startswith(SID_PREFIX):
            return
        key = _key(row.id)
        if key in self._ids:
            self.found.add("duplicate_id", split, row.id)
        self._ids.add(key)
        for name in self.fields:
            if row.lacks(name):
                own = name in ATTRIBUTES
                self.found.add(f"no_{name}" if own else "gap", split, f"{row.id} ({name})")
        self._shape(split, row)
        self._text(split, row)
        self.classes.add(split, row)
        for rule in (out_of_place, miscounted):
            if broken := rule(row):
                self.found.add(broken[0], split, f"{row.id} ({broken[1]})")

    def knows(self, name: str) -> bool:
        """Return whether an utterance of this id was taken."""
        return _key(name) in self._ids

    def lose(self, split: str, reason: str, count: int) -> None:
        """Take `count` utterances of `split` of which nothing is known but the reason."""
        self.sizes[split] += 0  # so that a split that is lost is no split that is missing
        self.found.add("unreadable", split, reason, count=count)

    def _content(self, split: str, row: Row, stored: str) -> None:
        """Compare the whole audio with that of earlier utterances, and keep its place in its file.

        Args:
            split: The split.
            row: The utterance.
            stored: "digest of the file@start+seconds", or only the digest, of the whole file.
        """
        if not row.content:
            return
        role = split.removeprefix(SID_PREFIX)
        family = SID_PREFIX if role != split else ""
        first = self._contents.setdefault(key := _key(family + row.content), "")
        if not first:
            self._contents[key] = split
        elif first == split or "train" not in {role, first.removeprefix(family)}:
            if not family:  # said of the plain split already
                self.found.add("duplicate", split, f"{row.id} (first in {first})")
        else:
            self.found.add("leak", split, f"{row.id} (in {first} too)")
            return
        file, _, place = stored.partition("@")
        start, _, seconds = place.partition("+")
        begin, lasts = float(start or 0), float(seconds or row.duration)
        if file and lasts > SHORT:
            name = "" if role == "train" else row.id
            part = _Part(_key(family + file), begin, begin + lasts, split, name, bool(row.speaker))
            self._parts.append(part)

    def _overlaps(self) -> None:
        """Find utterances that share a part of their file, over SHORT, with one of training.

        Noise may be cut anew for each split, as SUPERB's keyword spotting does: in a corpus with
        speakers, a file in which nobody speaks is left out.
        """
        by_file = itertools.groupby(sorted(self._parts), lambda part: part.file)
        for parts_of_file in (list(parts) for _, parts in by_file):
            if self.speakers and not any(part.spoken for part in parts_of_file):
                continue
            trained, leaks = -math.inf, list[_Part]()  # where training ends, so far
            waiting: list[_Part] = []  # for training that begins within them
            for part in parts_of_file:
                if not part.name:
                    leaks += [each for each in waiting if each.end - part.start > SHORT]
                    waiting = []
                    trained = max(trained, part.end)
                elif trained - part.start > SHORT:
                    leaks.append(part)
                else:
                    waiting.append(part)
            for leak in leaks:
                train = f"{SID_PREFIX if leak.split.startswith(SID_PREFIX) else ''}train"
                self.found.add("leak", leak.split, f"{leak.name} (a part of it is in {train} too)")

    def _shape(self, split: str, row: Row) -> None:
        """Check the file's length, and rate, channels and duration."""
        for kind, text in row.defects:
            file = (str(row.path), kind)
            if not row.seconds or file not in self._files:
                self.found.add(kind, split, f"{row.id} ({text})")
            if row.seconds:
                self._files.add(file)
        if table_size(row.rate, audio.RATE) > TABLE:
            self.found.add("odd_rate", split, f"{row.id} ({row.rate} Hz)")
        if row.rate < audio.RATE:
            self.found.add("low_rate", split, f"{row.id} ({row.rate} Hz)")
        if row.channels > 1:
            self.found.add("channels", split, f"{row.id} ({row.channels})")
        if row.duration < SHORT:
            self.found.add("short", split, f"{row.id} ({row.duration:.3f} s)")
        if row.silent:
            self.found.add("no_speech", split, row.id)
        if row.duration > LONG:
            self.found.add("long", split, f"{row.id} ({row.duration:.0f} s)")

    def _text(self, split: str, row: Row) -> None:
        """Check text and phones, and keep their symbols for the comparison of splits."""
        text, add = row.text, self.found.add
        shown = f"{row.id}: {text[:40]!r}"
        if CONTROL.search(text) or _mojibake(text):
            add("garbled", split, shown)
        if not unicodedata.is_normalized("NFC", text):
            add("not_nfc", split, shown)
        if alike := _look_alikes(text):
            add("look_alikes", split, f"{shown} ({', '.join(alike)})")
        words = text[1:-1] if is_quoted(text) else text
        if words != text:
            add("quoted", split, shown)
        for kind, pattern in TEXTS.items():
            if pattern.search(words):
                add(kind, split, shown)
        for kind, units in (("characters", text.upper()), ("phones", row.phones.split())):
            if len(units) > row.duration * FRAMES:
                add("too_fast", split, f"{row.id} ({len(units)} {kind} in {row.duration:.2f} s)")
            seen = self._symbols.setdefault((kind, split), {})
            for symbol in units:
                seen.setdefault(symbol, row.id)
        if text and len(text) < row.duration * SLOW:
            add("too_slow", split, f"{row.id} ({len(text)} letters in {row.duration:.1f} s)")
        if text:
            self._texts.setdefault(split, {}).setdefault(_key(text.upper()), row.id)

    def report(self) -> Report:
        """Compare the splits, and return all that was found."""
        plain = [split for split in self.sizes if not split.startswith(SID_PREFIX)]
        rates: Counter[int] = sum((self.rates[split] for split in plain), Counter())
        if len(rates) > 1:
            shown = ", ".join(f"{rate} Hz: {count}" for rate, count in rates.most_common())
            self.found.add("mixed_rates", "", shown, count=len(rates))
        own = len(self.sizes) > len(plain)
        for split in ("train", *EVALUATION):
            if split not in plain:
                self.found.add("no_split", "", split)
            if own and SID_PREFIX + split not in self.sizes:
                self.found.add("no_sid_split", "", SID_PREFIX + split)
        for split in EVALUATION:
            for kind in ("characters", "phones"):
                known = self._symbols.get((kind, "train"), {})
                for symbol, name in self._symbols.get((kind, split), {}).items() if known else ():
                    if symbol not in known:
                        self.found.add(f"new_{kind}", split, f"{symbol!r} in {name}")
            for text in self._texts.get(split, {}).keys() & self._texts.get("train", {}).keys():
                self.found.add("same_text", split, self._texts[split][text])
        self._overlaps()
        self._voices()
        self.classes.compare(self.found)
        facts = {split: self._facts(split) for split in self.sizes}
        return self.found.report(facts, self.compared)

    def _voices(self) -> None:
        """Compare the speakers of training and evaluation."""
        total: Counter[str] = Counter()
        for split, counts in self.speakers.items():
            if not split.startswith(SID_PREFIX):
                total.update(counts)
        names: dict[str, str] = {}
        for speaker, count in total.items():
            if count == 1:
                self.found.add("single_speaker", "", speaker)
            first = names.setdefault("".join(speaker.split()).lower(), speaker)
            if first != speaker:
                self.found.add("similar_speakers", "", f"'{first}' and '{speaker}'")
        own = SID_PREFIX + "train" in self.sizes
        for role in EVALUATION:
            train, tested = set(self.speakers.get("train", ())), set(self.speakers.get(role, ()))
            if {"text", "phones"} & set(self.fields):
                for speaker in sorted(tested & train):
                    self.found.add("leak_speaker", role, speaker)
            if own:
                train = set(self.speakers.get(SID_PREFIX + "train", ()))
                tested = set(self.speakers.get(SID_PREFIX + role, ()))
            if (
                own or tested & train
            ):  # where no speaker is shared, the corpus is not made for identification
                for speaker in sorted(tested - train):
                    self.found.add("unheard_speaker", SID_PREFIX + role if own else role, speaker)

    def _facts(self, split: str) -> SplitFacts:
        facts: SplitFacts = {
            "utterances": self.sizes[split],
            "hours": round(self.seconds[split] / 3600, 4),
            "speakers": len(self.speakers.get(split, ())),
            "sample_rates": {str(rate): count for rate, count in sorted(self.rates[split].items())},
        }
        labels, turns = self.classes.facts(split)
        if labels:
            facts["labels"] = labels
        if turns:
            facts["turns"] = turns
        return facts


def in_order(splits: Iterable[str]) -> list[str]:
    """Return splits as they are checked: train first, so that the others are compared with it.

    Speaker splits last.
    """
    return sorted(
        splits,
        key=lambda s: (s.startswith(SID_PREFIX), s.removeprefix(SID_PREFIX) != "train", s),
    )


def check_rows(splits: Mapping[str, Iterable[Row]], *, fields: Sequence[str]) -> Report:
    """Apply the rules to rows whose files were just looked at, as preparing does."""
    rules = Rules(fields)
    for split in in_order(splits):
        for row in splits[split]:
            rules.add(split, row)
    return rules.report()


def _key(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=10).digest()


def _look_alikes(text: str) -> list[str]:
    """Return the code points that look like others: apostrophes, and what NFKC changes."""
    composed = unicodedata.normalize("NFC", text)
    return [
        f"U+{ord(character):04X}"
        for character in sorted(set(composed))
        if ord(character) in APOSTROPHES or unicodedata.normalize("NFKC", character) != character
    ]


def _mojibake(text: str) -> bool:
    """Return whether `text` is UTF-8 that was read as Latin-1: "Ã©" for "é"."""
    if text.isascii():
        return False
    try:
        return text.encode("cp1252").decode("utf-8") != text
    except UnicodeError:
        return False
