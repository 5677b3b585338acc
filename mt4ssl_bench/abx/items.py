"""Tokens of an ABX test: from Libri-Light's item files, or from an alignment of phones or words.

Whatever cannot become a token is counted by reason, never skipped silently.
"""

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Literal

from mt4ssl_bench.data.alignment import Alignment
from mt4ssl_bench.data.cut import Cut, Turn, speaker_of, turns_of
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.files import write_text

LOGGER = logging.getLogger(__name__)
MICROSECONDS = 10**6  # per second: times are whole microseconds, in which decimals are exact
HEADER = "#file onset offset #phone prev-phone next-phone speaker"
COLUMNS = 7
DECIMAL = re.compile(r"\d+(\.\d*)?|\.\d+", re.ASCII)
NO_CONTEXT = "-"  # of words, which are compared in any context
# in lower case; last the pauses, noises and unknown speech of MAUS, SPPAS, EasyAlign and Buckeye
SILENCE = {
    *("", "sil", "sp", "spn", "nsn", "<eps>", "pau", "h#", "epi", "silence"),
    *("<p:>", "<usb>", "<nib>", "#", "_", "<sil>"),
}
POSITION = re.compile(r"_[BIES]$")  # Kaldi's position in the word
STRESS = re.compile(r"(?<=[A-Z])[012]$")  # CMUdict's
TOUCH = 10_000  # microseconds: neighbors with a larger gap or overlap do not touch; half a frame

Kind = Literal["triphone", "phoneme", "word"]
# shortest and longest token in microseconds; no published list states its limits
LIMITS: Mapping[Kind, tuple[int, int]] = {
    "triphone": (0, 1_000_000),
    "phoneme": (40_000, 500_000),
    "word": (150_000, 1_000_000),
}


@dataclass(frozen=True, slots=True, order=True)
class Token:
    """A labelled interval of an utterance.

    Attributes:
        utterance: Utterance id.
        onset: Start in microseconds from the start of the utterance.
        offset: End in microseconds; both ends belong to the interval.
        category: What triplets discriminate: a phone, a word, or a speaker.
        previous: Label before it; with `next` the context, which triplets may keep constant.
        next: Label after it.
        group: What "within" and "across" refer to: the speaker, or the phone of a speaker token.
    """

    utterance: str
    onset: int
    offset: int
    category: str
    previous: str
    next: str
    group: str


@dataclass
class Dropped:
    """Numbers of what was left out or changed, by reason, each with the first example."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, example: str) -> None:
        """Count one case of `reason`."""
        self.counts[reason] += 1
        self.examples.setdefault(reason, example)

    def log(self, source: str) -> None:
        """Log one line per reason."""
        for reason, count in self.counts.items():
            LOGGER.info("%s: %d %s; the first is %s", source, count, reason, self.examples[reason])

    def __str__(self) -> str:
        return "; ".join(
            f"{count} {reason}, the first is {self.examples[reason]}"
            for reason, count in self.counts.items()
        )


def read_items(path: Path) -> list[Token]:
    """Read an item file of Libri-Light's format.

    The first line is the header; the others have 7 columns: file, onset, offset (seconds), phone,
    previous phone, next phone, speaker (Kahn et al. 2020, arXiv 1912.07875). Decimals beyond the
    microsecond are rounded.

    Raises:
        CorpusError: If the file cannot be read, has no header or no token, or a line is invalid.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"--items {path}: cannot be read ({error})") from None
    if not lines[0].startswith("#"):
        raise CorpusError(
            f"--items {path}, line 1: '{lines[0].strip()[:80]}'; expected the header '{HEADER}'"
        )
    tokens = [
        _read_line(line, f"--items {path}, line {number}")
        for number, line in enumerate(lines[1:], start=2)
        if line.strip()
    ]
    if not tokens:
        raise CorpusError(f"--items {path}: no token; expected lines of '{HEADER}'")
    return tokens


def _read_line(line: str, where: str) -> Token:
    cells = line.split()
    if len(cells) != COLUMNS:
        raise CorpusError(f"{where}: {len(cells)} columns; expected {COLUMNS}: '{HEADER}'")
    utterance, *times, category, previous, following, group = cells
    for text in times:
        if not DECIMAL.fullmatch(text):
            raise CorpusError(f"{where}: '{text}' is no time; expected seconds, such as 0.2925")
    onset, offset = (round(Decimal(text) * MICROSECONDS) for text in times)
    if onset >= offset:
        raise CorpusError(f"{where}: onset {times[0]}, offset {times[1]}; expected onset < offset")
    return Token(utterance, onset, offset, category, previous, following, group)


def write_items(path: Path, tokens: Iterable[Token]) -> None:
    """Write an item file that read_items() and other ABX programs read.

    Raises:
        CorpusError: If a label or an utterance id is empty or contains whitespace.
    """
    write_text(path, items_text(tokens, str(path)))


def items_text(tokens: Iterable[Token], where: str = "item file") -> str:
    """Return the text of an item file; see write_items()."""
    lines = [HEADER]
    for token in tokens:
        labels = (token.category, token.previous, token.next, token.group)
        for text in (token.utterance, *labels):
            if text.split() != [text]:
                raise CorpusError(
                    f"{where}: '{text}' of utterance '{token.utterance}' cannot be written; item "
                    "files need labels and ids without whitespace"
                )
        lines.append(
            " ".join((token.utterance, _seconds(token.onset), _seconds(token.offset), *labels))
        )
    return "\n".join(lines) + "\n"


def plain_items(tokens: Sequence[Token]) -> str:
    """Return the text of an item file with "_" for white space in names.

    Raises:
        CorpusError: If a name is empty, or two names of a column would be one.
    """
    for name in ("utterance", "category", "group", "previous", "next"):
        plain: dict[str, str] = {}
        for label in sorted({str(getattr(token, name)) for token in tokens}):
            written = _plain(label)
            first = plain.setdefault(written, label)
            if not written or first != label:
                fault = f"and '{first}' would be one" if written else "is empty"
                raise CorpusError(f"no item file: {name} '{label}' {fault} without white space")
    return items_text(
        replace(
            token,
            utterance=_plain(token.utterance),
            category=_plain(token.category),
            previous=_plain(token.previous),
            next=_plain(token.next),
            group=_plain(token.group),
        )
        for token in tokens
    )


def _plain(name: str) -> str:
    return "_".join(name.split())


def _seconds(microseconds: int) -> str:
    """Return exact seconds with at least four decimals, as published lists have them."""
    whole, rest = divmod(microseconds, MICROSECONDS)
    return f"{whole}.{rest:06d}".removesuffix("00")


def turns_in(cuts: Iterable[Cut], tier: str) -> Alignment:
    """Return the turns of a tier, as an alignment."""
    return Alignment({cut.id: list(turns_of(cut, tier)) for cut in cuts})


def speakers_in(cuts: Iterable[Cut]) -> dict[str, str]:
    """Return the speaker by utterance id."""
    return {cut.id: speaker_of(cut) for cut in cuts}


def phone_tokens(
    alignment: Alignment,
    speakers: Mapping[str, str],
    kind: Literal["triphone", "phoneme"] = "triphone",
    limits: tuple[int, int] | None = None,
) -> tuple[list[Token], Dropped]:
    """Return a token for each phone between two phones that touch it.

    Kaldi's word positions and CMUdict's stress are removed from the labels.

    Args:
        alignment: Phones by utterance.
        speakers: Speaker by utterance id.
        kind: "triphone" spans the phone and both neighbors (the classic score), "phoneme" only the
            phone.
        limits: Shortest and longest token in microseconds. Default: LIMITS.

    Returns:
        The tokens, and the numbers of utterances and phones without one.
    """
    tokens, dropped = [], Dropped()
    for utterance, segments in _utterances(alignment, speakers, dropped):
        phones = [(start, end, clean(label)) for start, end, label in _in_order(segments)]
        edges = (phones[0][0],) * 2, (phones[-1][1],) * 2
        padded = [(*edges[0], ""), *phones, (*edges[1], "")]
        for before, here, after in zip(padded, padded[1:], padded[2:], strict=False):
            first, last = (before, after) if kind == "triphone" else (here, here)
            labels = here[2], before[2], after[2]
            token = Token(utterance, first[0], last[1], *labels, speakers[utterance])
            reason = _unsuitable(before, here, after) or _outside(token, limits or LIMITS[kind])
            if reason:
                dropped.add(reason, _place(utterance, here))
            else:
                tokens.append(token)
    return tokens, dropped


def word_tokens(
    alignment: Alignment,
    speakers: Mapping[str, str],
    limits: tuple[int, int] = LIMITS["word"],
) -> tuple[list[Token], Dropped]:
    """Return a token for each word of an alignment, without context.

    Scores of words are not comparable with those of phones: their contrasts are easier.

    Args:
        alignment: Words by utterance; see single_words() for utterances of one word.
        speakers: Speaker by utterance id.
        limits: Shortest and longest token in microseconds.

    Returns:
        The tokens, and the numbers of utterances and words without one.
    """
    tokens, dropped = [], Dropped()
    for utterance, segments in _utterances(alignment, speakers, dropped):
        for start, end, word in _in_order(segments):
            token = Token(utterance, start, end, word, NO_CONTEXT, NO_CONTEXT, speakers[utterance])
            silent = "silences" if word.lower() in SILENCE - {"silence"} else ""  # a word, too
            if reason := silent or _outside(token, limits):
                dropped.add(reason, _place(utterance, (start, end, word)))
            else:
                tokens.append(token)
    return tokens, dropped


def single_words(words: Mapping[str, str], seconds: Mapping[str, float]) -> Alignment:
    """Return the alignment of utterances that consist of one word: it spans the utterance.

    Args:
        words: Word by utterance id.
        seconds: Duration by utterance id.
    """
    return Alignment({name: [Turn(0.0, seconds[name], word)] for name, word in words.items()})


def speaker_tokens(tokens: Iterable[Token]) -> list[Token]:
    """Return phone tokens as tokens of speaker ABX: "within" compares speakers in the same phone.

    The category is the speaker and the group is the phone.
    """
    return [replace(token, category=token.group, group=token.category) for token in tokens]


def near_lengths(tokens: Iterable[Token], ratio: float = 1.5) -> frozenset[tuple[str, str]]:
    """Return the ordered pairs of categories whose mean durations differ at most by `ratio`.

    Words of very different lengths are told apart without any phonetic detail.
    """
    durations: dict[str, list[int]] = defaultdict(list)
    for token in tokens:
        durations[token.category].append(token.offset - token.onset)
    means = {category: sum(each) / len(each) for category, each in durations.items()}
    return frozenset(
        (a, b)
        for a in means
        for b in means
        if a != b and max(means[a], means[b]) <= ratio * min(means[a], means[b])
    )


def clean(label: str) -> str:
    """Return a phone without position and stress: "AH0_B" -> "AH"."""
    return STRESS.sub("", POSITION.sub("", label))


_Phone = tuple[int, int, str]  # start and end in microseconds, label


def _utterances(
    alignment: Alignment, speakers: Mapping[str, str], dropped: Dropped
) -> Iterator[tuple[str, Sequence[Turn]]]:
    """Yield the utterances with a speaker, by the id that `speakers` has."""
    for name, segments in sorted(alignment.segments.items()):
        short = alignment.short_names.get(name, name)
        utterance = name if name in speakers else short
        if utterance not in speakers:
            dropped.add("utterances of the alignment that are not in the corpus", f"'{name}'")
        elif not speakers[utterance]:
            dropped.add("utterances without a speaker", f"'{name}'")
        elif segments:
            yield utterance, segments


def _in_order(segments: Iterable[Turn]) -> list[_Phone]:
    return sorted(
        (round(start * MICROSECONDS), round(end * MICROSECONDS), label)
        for start, end, label in segments
    )


def _unsuitable(*phones: _Phone) -> str:
    """Return why three neighbors give no token, or ""."""
    before, here, after = (label.lower() in SILENCE for _, _, label in phones)
    if here:
        return "silences"
    if before or after:
        return "phones beside silence or at the edge of an utterance"
    gaps = [right[0] - left[1] for left, right in pairwise(phones)]
    if max(gaps) > TOUCH:
        return "phones with a gap before or after them"
    if min(gaps) < -TOUCH:
        return "phones that overlap a neighbor"
    return ""


def _outside(token: Token, limits: tuple[int, int]) -> str:
    duration = token.offset - token.onset
    if duration < limits[0]:
        return f"tokens shorter than {limits[0] / MICROSECONDS:g} s"
    if duration > limits[1]:
        return f"tokens longer than {limits[1] / MICROSECONDS:g} s"
    return ""


def _place(utterance: str, phone: _Phone) -> str:
    return f"'{phone[2]}' at {phone[0] / MICROSECONDS:g} s of '{utterance}'"
