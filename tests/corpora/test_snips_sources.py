"""Audio SNIPS in a miniature tree of its own layout, and SNIPS spoken by eSpeak NG."""

from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from builders import run, write_noise
from mt4ssl_bench.corpora.prepare_source import Request, prepare_source
from mt4ssl_bench.corpora.source import SOURCES
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import labels_of, speaker_of, text_of
from mt4ssl_bench.downstream.plan import plan
from mt4ssl_bench.errors import ConfigError, CorpusError

SENTENCES = (  # words, slots, intent; the second has two spaces, as some of the corpus
    ("PLAY A SONG BY MUSE", "O O music_item O artist", "PlayMusic"),
    ("A TABLE  FOR TWO .", "O O O O party_size_number O", "BookRestaurant"),
)
VOICES = ("Ivy", "Amy", "Brian")  # of train, valid and test


def prepared(name: str, root: Path, out: Path, **options: object) -> Corpus:
    source = SOURCES.get(name)
    request = Request(roots={"": root})
    made = source.options(audio=out / "audio", **options)  # type: ignore[arg-type]
    return prepare_source(source, made, out, request).corpus


def audio_snips(root: Path) -> Path:
    """Write the layout that s3prl prepares: every voice has a line for every sentence."""
    lines = []
    for split, own in zip(("train", "valid", "test"), VOICES, strict=True):
        for number, (words, slots, intent) in enumerate(SENTENCES):
            for voice in (*VOICES, "Salli"):
                name = f"{voice}-snips-{split}-{number}"
                lines.append(f"{name} BOS {words} EOS\tO {slots} {intent}")
                if voice == own or (voice == "Salli" and split == "train"):
                    write_noise(root / split / f"{name}.wav", seconds=0.5)
    (root / "all.iob.snips.txt").write_text("\n".join(lines) + "\n")
    (root / "slots.txt").write_text("O\nartist\nmusic_item\nparty_size_number\n")
    return root


def test_audio_snips_has_the_voices_of_each_split_and_a_slot_for_each_word(tmp_path: Path) -> None:
    corpus = prepared("audio_snips", audio_snips(tmp_path / "in" / "SNIPS"), tmp_path / "out")
    sizes = {name: corpus.info.splits[name].utterances for name in ("train", "valid", "test")}
    assert sizes == {"train": 4, "valid": 2, "test": 2}
    assert corpus.info.synthetic
    assert {speaker_of(cut) for cut in corpus.cuts("train")} == {"Ivy", "Salli"}
    cuts = {cut.id: cut for cut in corpus.cuts("test")}
    first, second = (cuts[f"Brian-snips-test-{number}"] for number in range(2))
    assert text_of(first) == "PLAY A SONG BY MUSE"
    assert labels_of(first) == {"slots": "O O music_item O artist", "intent": "PlayMusic"}
    assert text_of(second) == "A TABLE FOR TWO ."
    assert labels_of(second)["slots"] == "O O O party_size_number O", "without the empty word's"
    (fold,) = plan("SF", corpus).folds()
    assert fold.task.state()["slots"] == ["artist", "music_item", "party_size_number"]
    assert fold.task.reference(second) == "A TABLE FOR B-party_size_number TWO E-party_size_number "


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda text: text.replace(" EOS\t", " EOS "),
            r"line 1: 'Ivy-snips-train-0 .*; expected '<v",
        ),
        (lambda text: text.replace("BOS ", ""), "line 1: .*; expected '<voice>-snips-<split>-<num"),
        (lambda text: text.replace("snips-", "snips_"), "line 1: .*; expected '<voice>-snips-<spl"),
        (
            lambda text: text.replace("O music_item", "O"),
            "utterance 'Ivy-snips-train-0': 4 slots for 5",
        ),
        (lambda text: text.replace("Salli-", "Joey-"), "2 of its 8 audio files are missing"),
        (
            lambda text: text.replace("snips-t", "snips-x"),
            "line 1: .*; expected '<voice>-snips-<split>-<num",
        ),
    ],
)
def test_wrong_lines_of_audio_snips_are_named(
    tmp_path: Path, change: Callable[[str], str], message: str
) -> None:
    root = audio_snips(tmp_path / "in")
    file = root / "all.iob.snips.txt"
    file.write_text(change(file.read_text()))
    with pytest.raises(CorpusError, match=message) as caught:
        prepared("audio_snips", root, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_another_folder_is_no_audio_snips(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"not Audio SNIPS; expected all\.iob\.snips\.txt in it"):
        prepared("audio_snips", tmp_path, tmp_path / "out")


# ---- SNIPS spoken by eSpeak NG ----

HEADER = "u_id\tutterance\tslot-labels\tintent"
LINES = (
    "Play a song by Muse\tO O PlayMusic/music_item O PlayMusic/artist\tPlayMusic",
    "Book a table  for 2\tO O O O O BookRestaurant/party_size_number\tBookRestaurant",
    "Will it rain\tO O GetWeather/condition_description\tGetWeather",
)


def sentences(root: Path) -> Path:
    root.mkdir(parents=True)
    for split in ("train", "valid", "test"):
        lines = [f"snips-{split}-{number}\t{line}" for number, line in enumerate(LINES)]
        (root / f"{split}.tsv").write_text("\n".join([HEADER, *lines]) + "\n")
    return root


@pytest.mark.long
def test_sentences_are_spoken_by_other_voices_in_each_split_and_keep_their_slots(
    tmp_path: Path,
) -> None:
    pytest.importorskip("espeakng_loader")
    root = sentences(tmp_path / "in")
    out = ("--out", tmp_path / "out", "--held-out", "2")
    done = run("prepare", "spoken_snips", "--from", root, *out)
    assert done.returncode == 0, done.stderr
    corpus = Corpus.open(tmp_path / "out")
    cuts = {split: list(corpus.cuts(split)) for split in ("train", "valid", "test")}
    assert {split: len(of) for split, of in cuts.items()} == {"train": 3, "valid": 2, "test": 2}
    speakers = [{speaker_of(cut) for cut in of} for of in cuts.values()]
    assert sum(map(len, speakers)) == len(set.union(*speakers)) == 7
    assert corpus.info.synthetic
    assert "synthetic speech" in str(corpus.info.notes["spoken_by"])
    table = next(cut for cut in cuts["train"] if cut.id.endswith("snips-train-1"))
    assert text_of(table) == "Book a table for 2"
    assert labels_of(table) == {"slots": "O O O O party_size_number", "intent": "BookRestaurant"}
    files = sorted((tmp_path / "out" / "audio").rglob("*.flac"))
    assert {soundfile.info(file).samplerate for file in files} == {16_000}
    again = run("prepare", "spoken_snips", "--from", root, "--out", tmp_path / "two", *out[2:])
    assert again.returncode == 0, again.stderr
    assert Corpus.open(tmp_path / "two").info.digest == corpus.info.digest, "the same bytes"


def test_other_sentences_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    root, out = sentences(tmp_path / "in"), tmp_path / "out"
    corpus = prepared("spoken_snips", root, out, held_out=1)
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    with pytest.raises(CorpusError, match="holds another corpus"):
        prepared("spoken_snips", root, out, held_out=2)
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before
    assert prepared("spoken_snips", root, out, held_out=1).info.digest == corpus.info.digest


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "valid.tsv",
            "u_id",
            "id",
            r"valid\.tsv: columns id, utterance, slot-labels, intent; expected u_id, utt",
        ),
        ("test.tsv", "\tGetWeather\n", "\n", r"test\.tsv, line 4: 3 columns; expected 4"),
    ],
)
def test_wrong_tables_of_sentences_are_named(
    tmp_path: Path, file: str, old: str, new: str, message: str
) -> None:
    root = sentences(tmp_path / "in")
    (root / file).write_text((root / file).read_text().replace(old, new))
    with pytest.raises(CorpusError, match=message):
        prepared("spoken_snips", root, tmp_path / "out")


def test_a_missing_split_and_no_sentence_are_refused(tmp_path: Path) -> None:
    root = sentences(tmp_path / "in")
    with pytest.raises(ConfigError, match="--train 0, --held-out 300: expected at least 1"):
        prepared("spoken_snips", root, tmp_path / "out", train=0)
    (root / "valid.tsv").unlink()
    with pytest.raises(CorpusError, match=r"no valid\.tsv; expected it beside the other splits"):
        prepared("spoken_snips", root, tmp_path / "out")
