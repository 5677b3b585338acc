"""Records and models that revision 16264c9 made (scheme 1) are found, opened and compared with new
ones.
"""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from builders import rendered
from fakes import Encoder, Spectrum
from mt4ssl_bench import results
from mt4ssl_bench.config import to_dict
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.downstream.evaluate import evaluate
from mt4ssl_bench.downstream.find_record import find_record, former_key, run_folder
from mt4ssl_bench.downstream.plan import plan
from mt4ssl_bench.downstream.task import TASKS
from mt4ssl_bench.downstream.transcribe import Recognizer
from mt4ssl_bench.encoders import load
from mt4ssl_bench.encoders.protocol import Features
from mt4ssl_bench.results import earlier_identities
from mt4ssl_bench.results.compare import compare
from mt4ssl_bench.results.leaderboard import Leaderboard
from mt4ssl_bench.results.show import report
from mt4ssl_bench.settings import flatten, keys_of

DATA = Path(__file__).parents[1] / "fixtures"
OLD = DATA / "revision_16264c9"
DIGEST = "c6fdcf08343a733d"  # of the corpus that the records were made on
FBANK = "57f23e17f0899adf"
PHONEME, ASR, SPEAKER, FINETUNE = (
    str(DATA / f"toy_{name}.yaml") for name in ("phoneme", "asr", "speaker", "asr_finetune")
)
LEXICON = f"lexicon={OLD / 'lexicon.txt'}"
LM = f"decode.lm={OLD / 'words.arpa'}"
WORDS = [LM, f"decode.lexicon={OLD / 'words.txt'}", "decode.tune=true"]
SHORT = ["steps=4", "validate_every=2"]
SEVERAL = ("asr-fbank-968179defa2df23a", [  # of the better of two seeds
    *("steps=10", "lr=0.01", "sweep=none", "seeds=0,1", "head.dropout=0.1"),
    *("store.precision=fp32", "head.hidden=16"),  # a default of the recipe, spelled out
])  # fmt: skip
# recipe, keys, file: the evaluations of then as they are written now
MADE: list[tuple[str, list[str], str]] = [
    (PHONEME, ["steps=10"], "phoneme-fbank-6412edcf1528105d"),
    (PHONEME, ["steps=10", LEXICON], "phoneme-fbank-12d3cbcae96bad40"),
    (
        PHONEME,
        ["steps=10", LEXICON, "stress=keep", "pronunciations=first"],
        "phoneme-fbank-6480719064ab80b8",
    ),
    (ASR, ["steps=10"], "asr-fbank-153b6231a0437ca3"),
    (ASR, ["steps=10", LM, "decode.beam=7"], "asr-fbank-0f9f719c43a7333f"),
    (ASR, ["steps=10", *WORDS], "asr-fbank-e9ffb229cdeaa434"),
    (SPEAKER, ["steps=10"], "speaker-fbank-b2c82e8b3f149c5d"),
    (FINETUNE, SHORT, "asr-random-toy-yaml-39991c4851b14461"),
    ("phoneme_finetune_tiny", SHORT, "phoneme-random-mt4ssl_tiny-42e26aa2f4b0256e"),
    ("speaker_finetune_tiny", SHORT, "speaker-random-mt4ssl_tiny-656b73342f58a211"),
]


def renamed(name: str = "fbank", former: tuple[str, ...] = (FBANK,)) -> Spectrum:
    """Return an upstream that has another fingerprint than it had in scheme 1."""
    return Spectrum(name, "new", former=former)


class Fbank(Encoder):
    """Zeros in the shape of s3prl's fbank."""

    name, fingerprint, former = "fbank", "new", (FBANK,)
    dim, stride = 240, 160

    def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
        frames = torch.zeros(1, len(waveforms), int(lengths.max()) // 160, 240)
        return Features(frames, lengths // 160)


@pytest.fixture
def old_corpus(corpus: Corpus, tmp_path: Path) -> Corpus:
    """The tones under the digest of then: another libsndfile may write other FLAC files."""
    root = Path(shutil.copytree(corpus.root, tmp_path / "corpus"))
    info = json.loads((root / "corpus.json").read_text())
    (root / "corpus.json").write_text(json.dumps(info | {"digest": DIGEST}))
    return Corpus.open(root)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "results"))


@pytest.mark.parametrize(("recipe", "keys", "name"), MADE)
def test_a_record_of_then_is_found_by_the_evaluation_of_now(
    old_corpus: Corpus, old: Path, recipe: str, keys: list[str], name: str
) -> None:
    record = results.load(old / f"{name}.json")
    assert record.scheme == 1
    assert record.key == name.rpartition("-")[2]
    upstream = renamed(record.upstream["name"], (record.upstream["fingerprint"],))
    job = plan(recipe, old_corpus, keys)
    assert find_record(job, old, upstream) == record
    assert record.identity.settings == job.config.identity()
    assert find_record(job, old, renamed(former=("other",))) is None
    assert find_record(plan(recipe, old_corpus, [*keys, "clip_norm=2"]), old, upstream) is None


def test_a_record_of_the_best_seed_opens_and_is_not_taken_for_one_of_the_mean(
    old_corpus: Corpus, old: Path
) -> None:
    name, keys = SEVERAL
    record = results.load(old / f"{name}.json")
    assert (record.key, record.seeds) == (name.rpartition("-")[2], [0, 1])
    assert (record.main.by_seed, record.main.sd) == ({}, None)
    upstream = renamed(record.upstream["name"], (record.upstream["fingerprint"],))
    job = plan(ASR, old_corpus, keys)
    assert find_record(job, old, upstream) is None
    assert record.identity.settings | {"over_seeds": "mean"} == job.config.identity()
    assert rendered(report(old / f"{name}.json"))


def test_evaluate_takes_them_and_a_new_row_stands_in_the_same_table(
    old_corpus: Corpus, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "load_upstream", lambda name, **_: renamed(name))
    keys = ["steps=10"]
    first = evaluate(["fbank"], [PHONEME], old_corpus.root, out=old, device="cpu", overrides=keys)
    assert first.reused == 1
    keys = ["steps=10", "seeds=1"]
    evaluate(["fbank"], [PHONEME], old_corpus.root, out=old, device="cpu", overrides=keys)
    (table,) = Leaderboard.from_folder(old).tables
    assert [row.upstream for row in table.rows if row.fingerprint in {FBANK, "new"}] == ["fbank"]


def test_a_record_of_then_is_compared_with_one_of_now(old_corpus: Corpus, old: Path) -> None:
    file = old / f"{MADE[0][2]}.json"
    record = results.load(file)
    now = dataclasses.replace(
        record,
        scheme=2,
        settings=plan(PHONEME, old_corpus, ["steps=10"]).config.identity(),
        upstream={**record.upstream, "name": "other", "fingerprint": "other"},
    )
    made = results.save(now, results.load_hypotheses(file), old)
    (difference,) = compare(str(file), str(made), task="phoneme", folder=old)
    assert (difference.value, difference.units) == (0, 3)


def test_what_did_not_say_enough_is_named_and_not_used(
    old_corpus: Corpus, old: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = plan(PHONEME, old_corpus, ["steps=10"])
    upstream = renamed(former=())
    upstream.insufficient = (FBANK,)
    assert find_record(job, old, upstream) is None
    assert f"{old / MADE[0][2]}.json: not used as a record of this row" in caplog.text
    assert f"fingerprint {FBANK} does not tell models apart" in caplog.text
    caplog.clear()
    named = plan(PHONEME, old_corpus, ["steps=10", "lexicon=cmudict", "stress=keep"])
    assert find_record(named, old, renamed()) is None
    (line,) = caplog.messages
    assert "phoneme-fbank-65e92907c6daeece.json" in line
    assert "does not say which CMUdict" in line


def test_records_with_all_pronunciations_still_open(old: Path) -> None:
    record = results.load(old / "phoneme-fbank-ca507180eba1059c.json")
    assert record.identity.settings["pronunciations"] == "all"
    assert record.key == "ca507180eba1059c"
    assert Leaderboard.from_folder(old).tables


def test_a_run_folder_of_then_is_used(old_corpus: Corpus, old: Path) -> None:
    record = results.load(old / "asr-random-toy-yaml-39991c4851b14461.json")
    upstream = renamed("random:toy.yaml", (record.upstream["fingerprint"],))
    folder = old / "runs" / "asr-random-toy-yaml-39991c4851b14461"
    searched = plan(FINETUNE, old_corpus, [*SHORT, LM])
    assert run_folder(searched, old, upstream) == folder
    assert run_folder(plan(FINETUNE, old_corpus, ["steps=5"]), old, upstream) != folder
    shutil.rmtree(folder)
    key = searched.identity(upstream, training=True).key
    assert run_folder(searched, old, upstream) == folder.with_name(f"asr-random-toy-yaml-{key}")


@pytest.mark.parametrize(
    "name", ["asr-fbank-153b6231a0437ca3", "asr-random-toy-yaml-39991c4851b14461"]
)
def test_models_of_then_still_transcribe(
    old: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "mt4ssl_bench.downstream.transcribe.load_upstream", lambda *_, **__: Fbank()
    )
    recognizer = Recognizer(old / "runs" / name)
    assert recognizer.task.config.task == "asr"
    assert recognizer.task.units is not None
    assert recognizer.task.config.steps in {10, 4}
    assert isinstance(recognizer.text(np.zeros(16_000, dtype=np.float32)), str)


def test_no_default_has_changed_and_no_key_got_lost() -> None:
    old, seen = flatten(earlier_identities.DEFAULTS), set()
    for task in earlier_identities.NOT_OF:  # the tasks of then
        new = flatten(to_dict(TASKS.get(task).Config()))
        seen |= new.keys()
        differing = {key for key in new.keys() & old.keys() if new[key] != old[key]}
        assert differing <= ({"units"} if task == "phoneme" else set())
    assert old.keys() - seen == {"pronunciations"}
    for task, keys in earlier_identities.NOT_OF.items():
        assert not set(keys.split()) & (set(keys_of(TASKS.get(task).Config())) - {"units"})


def test_a_config_that_could_not_be_written_then_has_no_key_of_then(
    old_corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = plan(ASR, old_corpus, ["steps=10"])
    identity: Any = job.identity(renamed())
    assert former_key(job, identity, FBANK) == "153b6231a0437ca3"
    newer = dataclasses.replace(identity, settings=identity.settings | {"momentum": 0.8})
    assert former_key(job, newer, FBANK) is None
