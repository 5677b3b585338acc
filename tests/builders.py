"""Builders of what many tests need: audio, corpora, run folders, commands and comparisons."""

import atexit
import functools
import http.server
import io
import itertools
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from lhotse import MonoCut, SupervisionSegment
from rich.console import Console, RenderableType
from torch import Tensor
from torch.distributed import TCPStore

from mt4ssl_bench import checkpoint
from mt4ssl_bench.cli.app import app, main
from mt4ssl_bench.config import load, to_dict
from mt4ssl_bench.results.answers import Counts, pair
from mt4ssl_bench.results.intervals import Bootstrap
from mt4ssl_bench.results.metrics import METRICS, Metric, RatioOfSums, Score
from mt4ssl_bench.results.record import Result
from mt4ssl_bench.upstream.config import PretrainConfig
from mt4ssl_bench.upstream.masking import MaskedFrames, draw_masks
from mt4ssl_bench.upstream.model import MT4SSL, padding_mask

HERE = Path(__file__).parent
FIXTURES = HERE / "fixtures"
TOY = str(FIXTURES / "toy.yaml")  # a pretraining recipe of seconds
RATE = 16_000
# three tones of unequal pitch stand for three "words": a head can learn to read them from any
# spectrum
WORDS = {"LOW": ("L OW", 300.0), "MID": ("M IH D", 900.0), "HIGH": ("HH AY", 2400.0)}
MAIN = {"phoneme": "per", "asr": "wer", "speaker": "acc"}  # the main metric of each task
TIMES = {"audio_seconds_per_second", "waiting_share", "seconds"}  # what a log holds of the clock


def recipe(name: str) -> str:
    """Return the path of a toy recipe of the fixtures: phoneme, asr, speaker, asr_finetune."""
    return str(FIXTURES / f"toy_{name}.yaml")


# ---- audio and corpora ----


def write_noise(path: Path, seconds: float = 0.1, rate: int = RATE) -> Path:
    """Write noise that depends on the file's name, and its folder if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(path.name.encode()))
    soundfile.write(path, 0.1 * rng.standard_normal(round(seconds * rate)), rate)
    return path


def speak(words: Sequence[str], speaker: int, rng: np.random.Generator) -> np.ndarray:
    """Return a sequence of tones with the vibrato of a speaker, float32 (N,) at 16 kHz."""
    parts = []
    for word in words:
        t = np.arange(int(RATE * rng.uniform(0.25, 0.4))) / RATE
        wobble = 1 + 0.01 * (speaker + 1) * np.sin(2 * np.pi * (3 + 2 * speaker) * t)
        parts += [0.2 * np.sin(2 * np.pi * WORDS[word][1] * wobble * t), np.zeros(RATE // 20)]
    samples = np.concatenate(parts)
    return (samples + 0.003 * rng.standard_normal(len(samples))).astype(np.float32)


def write_tones(folder: Path, speakers: int = 3, each: int = 8) -> Path:
    """Write a manifest of tone sequences, with text, phones, speakers and splits."""
    rng = np.random.default_rng(0)
    (folder / "audio").mkdir(parents=True)
    rows = ["id\tpath\tduration_s\tspeaker\tlanguage\ttext\tphones\tsplit"]
    for s in range(speakers):
        for u in range(each):
            words = rng.choice(list(WORDS), size=3 + u % 3)
            name = f"s{s}-{u}"
            samples = speak(words, s, rng)
            soundfile.write(folder / "audio" / f"{name}.flac", samples, RATE)
            split = "test" if u == 0 else "valid" if u == 1 else "train"
            phones = " ".join(WORDS[word][0] for word in words)
            seconds = f"{len(samples) / RATE:.3f}"
            rows.append(
                f"{name}\taudio/{name}.flac\t{seconds}\tspk{s}\ten\t{' '.join(words)}\t{phones}\t{split}"
            )
    manifest = folder / "manifest.tsv"
    manifest.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return manifest


def write_arpa(file: Path, sentences: list[str]) -> str:
    """Write a bigram model (relative frequencies, backing off to equally likely words)."""
    pairs = [pair for s in sentences for pair in itertools.pairwise(["<s>", *s.split(), "</s>"])]
    first = [a for a, _ in pairs]
    vocabulary = sorted({word for pair in pairs for word in pair})
    bigrams = sorted(set(pairs))
    lines = ["\\data\\", f"ngram 1={len(vocabulary) + 1}", f"ngram 2={len(bigrams)}", ""]
    lines += ["\\1-grams:", "-3\t<unk>\t0"]
    lines += [f"{-99 if word == '<s>' else -1}\t{word}\t-1" for word in vocabulary]
    lines += ["", "\\2-grams:"]
    lines += [
        f"{math.log10(pairs.count(p) / first.count(p[0])):.4f}\t{p[0]} {p[1]}" for p in bigrams
    ]
    file.write_text("\n".join([*lines, "", "\\end\\", ""]), encoding="utf-8")
    return str(file)


def waves(*lengths: int, seed: int = 0, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return zero-padded noise (B, N) and its lengths (B,)."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.1 * torch.randn(len(lengths), max(lengths), generator=generator) + offset
    for row, length in zip(x, lengths, strict=True):
        row[length:] = 0
    return x, torch.tensor(lengths)


def spoken(text: str = "", phones: str = "", speaker: str = "", name: str = "u") -> MonoCut:
    """Return a cut of a second without audio, of which only its reference matters."""
    custom = {"phones": phones} if phones else {}
    said = SupervisionSegment(
        id=name, recording_id=name, start=0, duration=1, text=text, speaker=speaker, custom=custom
    )
    return MonoCut(id=name, start=0, duration=1, channel=0, supervisions=[said])


# ---- models ----


def toy_config(*keys: str) -> PretrainConfig:
    """Return the toy recipe with some keys changed."""
    return load(PretrainConfig, TOY, keys)


def toy_model(*keys: str, seed: int = 0) -> MT4SSL:
    """Return a toy model with random weights."""
    torch.manual_seed(seed)
    return MT4SSL(toy_config(*keys))


def toy_batch(*masks: Tensor) -> tuple[Tensor, Tensor, Tensor, MaskedFrames]:
    """Return what a toy model reads: two utterances, one shorter, under some of toy_masks()."""
    torch.manual_seed(1)
    waves = torch.randn(2, 16_000)
    waves[1, 9_700:] = 0
    padding = padding_mask(torch.tensor([49, 30]))
    assert padding is not None
    masked = MaskedFrames.of(torch.cat(masks or toy_masks(1)), 2)
    return waves, padding, torch.randint(0, 8, (2, 49)), masked


def toy_masks(views: int) -> tuple[Tensor, ...]:
    """Return masks (2, 49) of toy_batch()'s utterances."""
    rng = np.random.default_rng(0)
    return tuple(draw_masks([49, 30], 49, toy_config().masking, rng) for _ in range(views))


def write_run(folder: Path, *keys: str, seed: int = 0, **more: object) -> Path:
    """Write a run folder with a toy model of random weights; `more` goes into its checkpoint."""
    state = toy_model(*keys, seed=seed).state_dict()
    payload = {"kind": "mt4ssl", "config": to_dict(toy_config(*keys)), "model": state}
    checkpoint.save(payload | more, folder / "checkpoint.pt")
    return folder


def weights_of(run: Path) -> dict[str, Tensor]:
    """Return the weights in a run folder."""
    state: dict[str, Tensor] = checkpoint.load(run / "checkpoint.pt")["model"]
    return state


def read_log(run: Path, *, times: bool = True) -> list[dict[str, float]]:
    """Return the lines of a run's log, with or without what depends on the clock."""
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if times or k not in TIMES} for row in rows]


# ---- results ----


def score(value: float = 43.1, metric: str = "per") -> Score:
    """Return a score whose interval is a point below and two above it."""
    known = METRICS.get(metric)
    return Score(
        value=value, low=value - 1, high=value + 2, higher_is_better=known.higher_is_better,
        errors=20, total=100, title=metric.upper(), order=known.order,
    )  # fmt: skip


def ratio(counts: Counts, *, right: bool = False) -> Metric:
    """Return a ratio of sums over error counts (N, 4), whatever the answers are."""
    return Metric(
        name="acc" if right else "rate",
        value=RatioOfSums(counts=lambda _: counts, right=right),
        higher_is_better=right,
    )


def error_rate(counts: Counts, *, speakers: Sequence[str] | None = None, **bootstrap: int) -> Score:
    """Return the score of error counts (N, 4)."""
    texts = [""] * len(counts)
    return ratio(counts).score(pair(texts, texts, speakers), Bootstrap(**bootstrap))


def accuracy(
    correct: Sequence[bool], *, speakers: Sequence[str] | None = None, **bootstrap: int
) -> Score:
    """Return the score of right and wrong answers."""
    counts = np.array([(not right, 0, 0, 1) for right in correct], dtype=np.int64).reshape(-1, 4)
    texts = [""] * len(counts)
    return ratio(counts, right=True).score(pair(texts, texts, speakers), Bootstrap(**bootstrap))


def record(
    model: str = "mine", task: str = "phoneme", value: float = 43.1, *, corpus: str = "demo",
    lr: float = 0.01, **changes: Any,
) -> Result:  # fmt: skip
    """Return a record of `model` on `task`; the CER of speech recognition is half of its WER."""
    metrics = {MAIN[task]: score(value, MAIN[task])}
    if task == "asr":
        metrics["cer"] = score(value / 2, "cer")
    fields: dict[str, Any] = {
        "task": task, "task_version": 1, "mode": "frozen",
        "upstream": {"name": model, "fingerprint": f"{model}-weights", "parameters": 94_697_600,
                     "num_layers": 13, "dim": 768, "stride": 320},
        "corpus": {"name": corpus, "digest": f"{corpus}-0123456789", "languages": ["en"], "synthetic": False,
                   "splits": {"test": {"utterances": 120, "hours": 0.25}}},
        "main_metric": MAIN[task], "metrics": metrics, "layer_weights": [0.25, 0.75],
        "recipe_name": f"{task}_tiny", "recipe": {"task": task, "steps": 100}, "seeds": [0], "limit": None,
        "sweep": [{"lr": 0.1, "seed": 0, "valid": None, "steps": 100, "chosen": False},
                  {"lr": lr, "seed": 0, "valid": value, "steps": 100, "chosen": True}],
        "versions": {"torch": "2.11.0"}, "git": None, "device": "cpu", "wall_seconds": {"train": 3.0},
        "counts": {"test_utterances": 40}, "created": "2026-11-22T12:00:00+00:00",
    }  # fmt: skip
    return Result(**(fields | changes))


# ---- commands ----


def run(*arguments: object, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run the command line in a second process, as a user does.

    It is a fork that has the imports already, unless variables differ from those of the first call.
    """
    command = [*map(str, arguments)]
    if not variables and prefork().began_in == _surroundings():
        return prefork().complete(*command)
    return subprocess.run(
        [sys.executable, "-m", "mt4ssl_bench", *command],
        env=os.environ | {"COLUMNS": "200"} | variables,  # wide: tables do not wrap
        capture_output=True,
        text=True,
        check=False,
    )


def _surroundings() -> dict[str, str]:
    """Return this process's variables, but for those that pytest and imports set."""
    passing = ("PYTEST", "KMP_", "TOKENIZERS_", "TORCH_ELASTIC_")
    return {key: value for key, value in os.environ.items() if not key.startswith(passing)}


def call(*arguments: object) -> int:
    """Run the command line in this process; return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mt4ssl-bench", *map(str, arguments)])
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0)
    return 0


def invoke(*arguments: object) -> int:
    """Run a command in this process and let its errors through; return its exit code."""
    return int(app([str(argument) for argument in arguments], standalone_mode=False) or 0)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must fail; return its one line."""
    assert call(*arguments) == 2
    errors = capsys.readouterr().err
    (line,) = [line for line in errors.splitlines() if line.startswith("error:")]
    assert "Traceback" not in errors
    return line


def torchrun(processes: int) -> list[str]:
    """Return the beginning of a command that starts so many processes on this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launcher, "--nproc-per-node", str(processes)]


def environment(**variables: str) -> dict[str, str]:
    """Return this process's variables, with which a child process finds builders and fakes."""
    return os.environ | {"PYTHONPATH": str(HERE)} | variables


def python(code: str, *arguments: object, **variables: str) -> str:
    """Run code in a fresh interpreter; return its output."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


class Prefork:
    """Processes that run the command line and start in a moment; see fixtures/prefork.py."""

    def __init__(self) -> None:
        self.folder, self.count = Path(tempfile.mkdtemp()), 0
        self.stores: list[TCPStore] = []
        self.began_in = _surroundings()
        command = [sys.executable, str(FIXTURES / "prefork.py")]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        self.server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def close(self) -> None:
        """End the server, and remove what its processes said."""
        self.server.communicate(timeout=30)
        shutil.rmtree(self.folder)

    def _ask(self, question: dict[str, Any]) -> int:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(question) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def _start(self, argv: Sequence[str], env: Mapping[str, str], out: Path, errors: Path) -> int:
        asked = {"argv": argv, "env": env, "out": str(out), "errors": str(errors)}
        return self._ask(asked | {"cwd": str(Path.cwd())})

    def start(self, *argv: str, **env: str) -> tuple[int, Path]:
        """Return the pid and the file that takes what the process says."""
        self.count += 1
        out = self.folder / f"said-{self.count}.txt"
        return self._start(argv, env, out, out), out

    def wait(self, pid: int) -> int:
        """Return the exit code, negative for a signal."""
        return self._ask({"wait": pid})

    def complete(self, *argv: str) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end; return its exit code and what it printed."""
        self.count += 1
        out, errors = (self.folder / f"{name}-{self.count}.txt" for name in ("out", "errors"))
        code = self.wait(self._start(argv, {}, out, errors))
        return subprocess.CompletedProcess(argv, code, out.read_text(), errors.read_text())

    def run(self, *argv: str) -> str:
        """Run a command to its successful end; return all that it printed."""
        pid, out = self.start(*argv)
        assert self.wait(pid) == 0, out.read_text()
        return out.read_text()

    def world(self, size: int, *argv: str) -> list[tuple[int, Path]]:
        """Start the processes of one run, as torchrun would: it keeps the store where they meet."""
        return self.worlds([argv] * size)

    def worlds(self, commands: Sequence[Sequence[str]]) -> list[tuple[int, Path]]:
        """Start the processes of one run, which were given different commands."""
        store, size = (
            TCPStore("localhost", 0, is_master=True, wait_for_workers=False),
            len(commands),
        )
        self.stores.append(store)
        env = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port), "WORLD_SIZE": str(size)}
        env |= {"TORCHELASTIC_USE_AGENT_STORE": "True"}
        return [
            self.start(*argv, **env, RANK=str(rank), LOCAL_RANK=str(rank))
            for rank, argv in enumerate(commands)
        ]


@functools.cache
def prefork() -> Prefork:
    """Return the server of this test process."""
    server = Prefork()
    atexit.register(server.close)
    return server


# ---- surroundings ----


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes: writing more fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A handler that logs nothing."""

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder over HTTP; yield its address."""
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


# ---- comparisons ----


def identical(ours: Any, theirs: Any) -> bool:
    """Compare nested containers, all but clocks; tensors bit by bit."""
    if isinstance(ours, Tensor):
        return torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(
            identical(ours[key], theirs[key]) for key in ours.keys() - TIMES
        )
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(identical, ours, theirs))
    return bool(ours == theirs)


def largest_difference(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """Return the largest difference of any weight of two models with the same names."""
    assert ours.keys() == theirs.keys()
    return max((ours[name] - theirs[name]).abs().max().item() for name in ours)


def rendered(shown: RenderableType, width: int = 200) -> str:
    """Return what a console of this width shows, without styles."""
    stream = io.StringIO()
    Console(width=width, file=stream, force_terminal=False).print(shown)
    return stream.getvalue()
