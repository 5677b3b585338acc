"""Every key of every task's config, in each mode: a change moves the identity, or no bit of the
answers.

`MOVES` and `STILL` hold another value for each key; a key that is in neither fails the test. Keys
of MOVES change the identity, and each is trained with its other value to see that it has to: the
answers differ. Keys of STILL leave the identity as it is; they are changed together, and the
answers are equal to the last bit.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from builders import write_arpa
from fakes import Mirrored
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.downstream.clock import Clock
from mt4ssl_bench.downstream.config import TaskConfig
from mt4ssl_bench.downstream.job import ROLES, Fold, Job
from mt4ssl_bench.downstream.plan import plan
from mt4ssl_bench.downstream.task import TASKS
from mt4ssl_bench.downstream.tasks.asr import ASRConfig
from mt4ssl_bench.downstream.tasks.phoneme import PhonemeConfig
from mt4ssl_bench.downstream.training.finetune_rates import train_finetuned
from mt4ssl_bench.downstream.training.frozen import FrozenTraining
from mt4ssl_bench.encoders.load import load_upstream
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.features.store import FeatureStore
from mt4ssl_bench.settings import keys_of
from mt4ssl_bench.shared_work import finish as wait_for
from mt4ssl_bench.training.distributed import ALONE

DATA = Path(__file__).parents[1] / "fixtures"
TOY = f"random:{DATA / 'toy.yaml'}"
RECIPES = {
    ("asr", "frozen"): str(DATA / "toy_asr.yaml"),
    ("phoneme", "frozen"): str(DATA / "toy_phoneme.yaml"),
    ("speaker", "frozen"): str(DATA / "toy_speaker.yaml"),
    ("asr", "finetune"): str(DATA / "toy_asr_finetune.yaml"),
    ("phoneme", "finetune"): "phoneme_finetune_tiny",
    ("speaker", "finetune"): "speaker_finetune_tiny",
}
BASE = {  # short, and so that every key has something to act on
    "frozen": ["steps=6", "validate_every=3", "patience=9", "head.projection=8"],
    "finetune": ["steps=3", "validate_every=2", "sweep=1e-2", "tune.batch_seconds=8",
                 "tune.layer_drop=0.1", "tune.channel_prob=0.4", "tune.channel_length=4"],
}  # fmt: skip
OF_TASK = {
    "asr": ["vocabulary=12"],
    "phoneme": ["lexicon=STRESSED"],
    "speaker": ["crop_seconds=0.5", "test_crop_seconds=0.4"],
}

TRAINING = {
    "sweep": "3e-2,3e-3",
    "seeds": "1",
    "steps": "2",
    "accumulate": "2",
    "clip_norm": "0.01",
    "validate_every": "1",
}
LINEAR = {
    "batch": "4",
    "head.projection": "4",
    "head.layer_norm": "true",
    "store.precision": "int8",
    "pass_precision": "bf16",
}
LSTM = {
    "head.hidden": "4",
    "head.lstm_layers": "2",
    "head.dropout": "0.5",
    "head.spec_augment": "true",
}
TUNE = {
    "tune.layer": "weighted",
    "tune.freeze_updates": "2",
    "tune.head_lr": "3",
    "tune.phases": "0.5,0,0.5",
    "tune.final_scale": "0.5",
    "tune.batch_seconds": "4",
    "tune.dropout": "0.5",
    "tune.attention_dropout": "0.5",
    "tune.activation_dropout": "0.5",
    "tune.layer_drop": "0.9",
    "tune.time_prob": "0.9",
    "tune.time_length": "3",
    "tune.channel_prob": "0.9",
    "tune.channel_length": "8",
}
CROPS = {"crop_seconds": "0.3", "test_crop_seconds": "0.2"}
LEXICON = {"stress": "keep", "lexicon": "LEXICON"}
READ = {"patience": "1", "layers": "1"}  # by frozen heads of every kind
MOVES: dict[tuple[str, str], dict[str, str]] = {
    ("asr", "frozen"): TRAINING | LINEAR | LSTM | READ | {"units": "sentencepiece"},
    ("phoneme", "frozen"): TRAINING | LINEAR | LEXICON | READ,
    ("speaker", "frozen"): TRAINING | LINEAR | CROPS | READ | {"crops": "1"},
    ("asr", "finetune"): TRAINING | TUNE | {"units": "sentencepiece"},
    ("phoneme", "finetune"): TRAINING | TUNE | LEXICON,
    ("speaker", "finetune"): TRAINING | TUNE | CROPS,
}
IDLE = {"about": "another", "store.limit_gb": "0", "tune.workers": "1", "tune.cache_hours": "0"}
DECODE = {
    "decode.beam": "9",
    "decode.threshold": "3",
    "decode.lm_weight": "3",
    "decode.tune": "true",
}
WORDS = DECODE | {"decode.lexicon": "LEXICON", "decode.word_score": "1"}
FROZEN_ONLY = LINEAR | {"patience": "1"}  # by fine-tuning, read not at all
STILL: dict[tuple[str, str], dict[str, str]] = {
    ("asr", "frozen"): IDLE | TUNE | WORDS | {"vocabulary": "9"},
    ("phoneme", "frozen"): IDLE | TUNE | DECODE,
    ("speaker", "frozen"): IDLE | TUNE,
    ("asr", "finetune"): IDLE | FROZEN_ONLY | LSTM | WORDS | {"vocabulary": "9"},
    ("phoneme", "finetune"): IDLE | FROZEN_ONLY | DECODE,
    ("speaker", "finetune"): IDLE | FROZEN_ONLY | {"crops": "1"},
}
CHOSEN = {"task", "mode"}  # the parametrization of this test; test_results: both change the key
SAME_AS = {"lr": "sweep", "layer": "layers"}  # short forms: below, and in test_single_layers
REFUSED = {"frozen": set(), "finetune": {"layers"}}
OTHERS = {  # decode.lm is tested below, with all that it brings to life; units has one value
    "asr": {"decode.lm"},
    "phoneme": {"decode.lm", "units"},
}
TRAINED = [case for case in RECIPES if case[1] == "frozen" or case[0] == "asr"]  # tune is the same
# read, but this small example answers alike: no head gets worse and better again
QUIET = {"frozen": {"patience"}, "finetune": {"validate_every"}}


class Lab:
    """Trains a job on the tones and returns all that its answers are, to the bit."""

    def __init__(
        self, corpus: Corpus, folder: Path, arpa: Callable[[Path, list[str]], str]
    ) -> None:
        self.corpus, self.folder, self.trained = corpus, folder, 0
        names = ("STRESSED", "LEXICON", "WORDS.ARPA", "PHONES.ARPA")
        self.files = {name: folder / name.lower() for name in names}
        self.files["STRESSED"].write_text("LOW L OW1\nMID M OW2 D\nHIGH HH AY1\n")
        self.files["LEXICON"].write_text("LOW L OW1\nMID M IY1 D\nHIGH HH AY1\n")
        arpa(self.files["WORDS.ARPA"], ["LOW MID HIGH", "MID LOW", "HIGH HIGH LOW"])
        arpa(self.files["PHONES.ARPA"], ["L OW1 M OW2 D", "HH AY1 L OW1", "M OW2 D M OW2 D"])
        self.upstreams: dict[str, Upstream] = {"frozen": Mirrored()}

    def job(self, task: str, mode: str, *keys: str) -> Job:
        base = BASE[mode] + OF_TASK[task]
        return plan(RECIPES[task, mode], self.corpus, [self.placed(key) for key in [*base, *keys]])

    def placed(self, key: str) -> str:
        """Return a key with its file's place."""
        for name, file in self.files.items():
            key = key.replace(name, str(file))
        return key

    def identity(self, job: Job) -> str:
        return job.identity(self.upstreams["frozen"]).key

    def answers(self, job: Job) -> list[Any]:
        mode = job.config.mode
        kind = type("Recorded", (job.kind,), {"decode": _recorded})
        one: Any = kind(job.config)
        one.recorded = []
        cuts = {role: job.cuts(role) for role in ROLES}
        one.fit_units(cuts["train"])
        fold = Fold(one, cuts)
        self.trained += 1
        folder = self.folder / str(self.trained)
        if mode == "finetune":
            model = self.upstreams.setdefault(mode, load_upstream(TOY))
            trained = train_finetuned(model, job, [fold], folder=folder, world=ALONE).decode()
        else:
            store = FeatureStore(self.folder / f"store-{self.trained}", job.config.store)
            training = FrozenTraining(
                self.upstreams[mode],
                job,
                [fold],
                source="",
                folder=folder,
                store=store,
                device="cpu",
                clock=Clock(),
            )
            wait_for(training.train())
            trained = training.result()
        (one_seed,) = trained.decoded
        with_lm = one_seed.with_lm
        searched = [with_lm.hypotheses, with_lm.weights] if with_lm else []
        last = one.recorded[-1].tolist()  # the logits of test
        return [one_seed.hypotheses, trained.layer_weights, last, *searched]


def _recorded(task: Any, logits: Tensor, lengths: Tensor) -> list[str]:
    task.recorded.append(logits.clone())
    hypotheses: list[str] = super(type(task), task).decode(logits, lengths)
    return hypotheses


@pytest.fixture(scope="module")
def lab(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(corpus, tmp_path_factory.mktemp("identity"), write_arpa)


def leaves(task: str) -> set[str]:
    """Return the keys of a task's config, without sections."""
    keys = keys_of(TASKS.get(task).Config())
    return {key for key in keys if not any(other.startswith(f"{key}.") for other in keys)}


@pytest.mark.parametrize(
    ("task", "mode"),
    [pytest.param(*each, marks=[pytest.mark.long] * (each[1] == "finetune")) for each in RECIPES],
)
def test_every_key_moves_the_identity_or_no_bit_of_the_answers(
    lab: Lab, task: str, mode: str, record_property: Callable[[str, object], None]
) -> None:
    moves, still = MOVES[task, mode], STILL[task, mode]
    assert not moves.keys() & still.keys()
    elsewhere = CHOSEN | SAME_AS.keys() | OTHERS.get(task, set()) | REFUSED[mode]
    assert moves.keys() | still.keys() | elsewhere == leaves(task), "a new key: does it move?"
    record_property("keys", f"{task}, {mode}: {len(moves)} move the identity, {len(still)} do not")

    before, answers = lab.job(task, mode), lab.answers(lab.job(task, mode))
    other = lab.job(task, mode, *(f"{key}={value}" for key, value in still.items()))
    assert lab.identity(other) == lab.identity(before)
    assert lab.answers(other) == answers
    alike = set()
    for key, value in moves.items():
        other = lab.job(task, mode, f"{key}={value}")
        assert lab.identity(other) != lab.identity(before), key
        if (task, mode) in TRAINED and lab.answers(other) == answers:
            alike.add(key)
    assert alike == (QUIET[mode] if (task, mode) in TRAINED else set())


LMS = {"asr": ("WORDS.ARPA", WORDS), "phoneme": ("PHONES.ARPA", DECODE)}


@pytest.mark.parametrize("task", LMS)
def test_with_a_language_model_every_key_of_the_search_is_read(lab: Lab, task: str) -> None:
    file, keys = LMS[task]
    job = partial(lab.job, task, "frozen", f"decode.lm={file}")
    greedy, before = lab.identity(lab.job(task, "frozen")), lab.identity(job())
    assert greedy != before
    for key, value in keys.items():
        assert lab.identity(job(f"{key}={value}")) != before, key
    weights = ["decode.lm_weight=3", *(["decode.word_score=1"] if task == "asr" else [])]
    tuned, other = job("decode.tune=true"), job("decode.tune=true", *weights)
    assert lab.identity(tuned) == lab.identity(other)
    assert lab.answers(tuned) == lab.answers(other)
    assert tuned.identity(Mirrored(), training=True).key == greedy, "the trained head is the same"
    lab.files[file].write_text(lab.files[file].read_text().replace("-1\t", "-1.5\t"))
    assert lab.identity(job()) != before


def test_one_rate_is_a_sweep_of_one(lab: Lab) -> None:
    short = lab.job("phoneme", "frozen", "lr=3e-2", "sweep=none")
    spelled = lab.job("phoneme", "frozen", "sweep=3e-2")
    assert lab.identity(short) == lab.identity(spelled)
    assert lab.answers(short) == lab.answers(spelled)


@pytest.mark.parametrize("task", TASKS)
def test_a_default_spelled_out_is_no_setting(task: str) -> None:
    kind = TASKS.get(task).Config
    for mode in ("frozen", "finetune"):
        config = kind(task=task, mode=mode)
        assert config.identity() == {}
        own = {"sweep", "seeds", "steps"}  # of tasks that train
        own = own if isinstance(config, TaskConfig) else {"distance"}
        assert config.settings().keys() >= own


def test_a_new_key_with_a_default_changes_no_identity(lab: Lab) -> None:
    old = lab.job("asr", "frozen").config

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Grown(ASRConfig):
        momentum: float = 0.9

    values = {field.name: getattr(old, field.name) for field in dataclasses.fields(old)}
    assert Grown(**values).identity() == old.identity()
    assert Grown(**values, momentum=0.8).identity() == old.identity() | {"momentum": 0.8}


def test_a_lexicon_stands_by_its_content_and_by_how_it_is_read(tmp_path: Path) -> None:
    """Earlier records had probabilities and comments among the phones, under the plain digest."""
    file = tmp_path / "lexicon.txt"
    for text, end in (
        ("A AH0\nB 9 b\n", ""),
        ("A 0.5 AH0\n", "-phones"),
        ("A AH0 # a\n", "-phones"),
    ):
        file.write_text(text, encoding="utf-8")
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        identity = PhonemeConfig(task="phoneme", lexicon=str(file)).identity()
        assert identity == {"lexicon": digest + end}


def test_cmudict_stands_by_its_data(monkeypatch: pytest.MonkeyPatch) -> None:
    before = PhonemeConfig(task="phoneme", lexicon="cmudict").identity()
    assert len(before["lexicon"]) == 16
    monkeypatch.setattr("cmudict.dict_string", lambda: "low L OW1\n")
    assert PhonemeConfig(task="phoneme", lexicon="cmudict").identity() != before
