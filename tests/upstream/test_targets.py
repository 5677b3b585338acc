"""Target extractors: those of other packages train beside ours; the online one may start late."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import builders
from builders import largest_difference, read_log, weights_of
from mt4ssl_bench import checkpoint
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.encoders.load import load_upstream
from mt4ssl_bench.errors import CheckpointError, ConfigError
from mt4ssl_bench.upstream.pretrain import open_pretraining
from mt4ssl_bench.upstream.recipe import load_config, to_stored
from mt4ssl_bench.upstream.targets import OnlineTargets

TOY = str(Path(__file__).parents[1] / "fixtures" / "toy.yaml")
THIRD = """
from dataclasses import dataclass
import torch.nn.functional as F
from torch import nn
from mt4ssl_bench.config import AT_LEAST_1
from mt4ssl_bench.upstream.targets import TargetExtractor, spread

class Energy(TargetExtractor):
    name = "energy"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        weight: float = 1.0
        size: int = 4
        BOUNDS = {AT_LEAST_1: "size"}

    def __init__(self, config, encoder):
        super().__init__(config, encoder)
        self.head = nn.Linear(encoder.dim, config.size)

    def targets(self, labels, frames, padding):
        return frames[..., : self.head.out_features].detach()

    def loss(self, hidden, targets):
        self.monitors = {"target_var": spread(targets)}
        return F.mse_loss(self.head(hidden), targets, reduction="sum")

    def update(self, step):
        return {"updates": float(step)}

class Odd(Energy):
    name = "odd"
    Config = dict

class Misnamed(Energy):
    name = "renamed"
"""
POINTS = """[mt4ssl_bench.targets]
energy = plug_targets:Energy
odd = plug_targets:Odd
misnamed = plug_targets:Misnamed
absent = plug_targets:NoSuchClass
"""
JOURNEY = """
import json, sys
from pathlib import Path
from mt4ssl_bench.errors import BenchError
from mt4ssl_bench.upstream.pretrain import open_pretraining
from mt4ssl_bench.upstream.recipe import load_config, to_stored

toy, corpus, out = sys.argv[1:]
keys = [f"data.corpus={corpus}", "fit.save_every=3", "fit.log_every=1"]
energy = [*keys, "targets.energy.weight=0.5", "targets.energy.size=3"]
whole = open_pretraining(load_config(toy, energy))
print(*(name for name, _ in whole.model.named_extractors()))
whole.run(Path(out) / "whole")

broken = open_pretraining(load_config(toy, energy))
after_step = broken.after_step
broken.after_step = lambda step, values: 1 / 0 if step == 5 else after_step(step, values)
try:
    broken.run(Path(out) / "broken")
except ZeroDivisionError:
    print("broke off")
print(open_pretraining(load_config(toy, energy)).run(Path(out) / "broken").finished)
print(json.dumps(sorted(to_stored(load_config(toy, keys))["targets"])))

def complaint(*more):
    try:
        open_pretraining(load_config(toy, [*energy, *more])).run(Path(out) / "other")
    except BenchError as error:
        print(error)

complaint("targets.energy.size=0")
complaint("targets.energy.sise=2")
complaint("targets.energy.weight=-1")
complaint("targets.odd.weight=1")
complaint("targets.misnamed.weight=1")
complaint("targets.absent.weight=1")
complaint("collapse_step=2", "min_target_var=100", "targets.online.weight=0")
"""


@pytest.fixture(scope="module")
def journey(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Run folders of a process that has the package installed, and what it printed."""
    root = tmp_path_factory.mktemp("targets")
    info = root / "site" / "plug_targets-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug_targets\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    (info.parent / "plug_targets.py").write_text(THIRD)
    done = subprocess.run(
        [sys.executable, "-c", JOURNEY, TOY, str(corpus.root), str(root)],
        env={**os.environ, "PYTHONPATH": str(info.parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return root, done.stdout.splitlines()


def test_an_extractor_of_another_package_trains_beside_the_two(
    journey: tuple[Path, list[str]],
) -> None:
    root, printed = journey
    assert printed[0] == "offline online energy"
    rows = [json.loads(line) for line in (root / "whole" / "log.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "lr" in row]
    assert [row["energy_updates"] for row in rows] == [row["step"] for row in rows]
    for row in rows:
        assert row["energy"] > 0
        assert row["energy_target_var"] != row["online_target_var"]
    assert "valid_energy" in (root / "whole" / "log.jsonl").read_text()


def test_its_run_resumes_to_the_same_bits(journey: tuple[Path, list[str]]) -> None:
    root, printed = journey
    assert printed[1:3] == ["broke off", "True"]
    whole, broken = (
        checkpoint.load(root / name / "checkpoint.pt")["model"] for name in ("whole", "broken")
    )
    assert whole.keys() == broken.keys()
    assert whole["extractors.energy.head.weight"].shape == (3, 32)
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


def test_a_run_that_does_not_use_it_does_not_store_it(journey: tuple[Path, list[str]]) -> None:
    assert journey[1][3] == '["offline", "online"]'
    assert list(to_stored(load_config(TOY))["targets"]) == ["offline", "online"]  # type: ignore[call-overload]


def test_what_is_wrong_with_an_added_extractor_is_one_line(
    journey: tuple[Path, list[str]],
) -> None:
    size, sise, weight, odd, misnamed, absent, collapse = journey[1][4:]
    assert size == "targets.energy.size=0: expected 1 or more"
    assert "unknown key 'targets.energy.sise'; did you mean size?" in sise
    assert weight == "targets.energy.weight=-1.0: expected 0 or more"
    assert "target extractor 'odd': Odd.Config is unusable" in odd
    assert "target extractor 'misnamed': its class has the name 'renamed'" in misnamed
    assert "'absent' of plug_targets 1.0: plug_targets:NoSuchClass cannot be imported" in absent
    assert collapse.startswith("collapse at update 2: energy_target_var is ")


def test_its_checkpoint_opens_without_the_package(journey: tuple[Path, list[str]]) -> None:
    run = journey[0] / "whole"
    assert checkpoint.load(run / "checkpoint.pt")["config"]["targets"]["energy"]["size"] == 3
    upstream = load_upstream(str(run), device="cpu")
    features = upstream.extract(torch.randn(1, 16_000), torch.tensor([16_000]))
    assert features.layers.isfinite().all()


def test_resuming_without_the_package_says_in_one_line_what_is_missing(
    journey: tuple[Path, list[str]], corpus: Corpus
) -> None:
    keys = [f"data.corpus={corpus.root}", "fit.save_every=3", "fit.log_every=1"]
    command = ["pretrain", TOY, *keys, "--out", str(journey[0] / "whole")]
    for more, message in (
        (
            ["targets.energy.weight=0.5"],
            "unknown target extractor 'energy'; known: offline, online; if another package adds it",
        ),
        ([], "holds a run with other settings (targets.energy: {"),
    ):
        done = builders.run(*command, *more)
        assert done.returncode == 2
        assert message in " ".join(done.stderr.split())


def test_an_unknown_section_is_refused_with_similar_names() -> None:
    with pytest.raises(ConfigError, match=r"unknown target extractor 'ofline'; did you mean off"):
        load_config(TOY, ["targets.ofline.weight=1"])


# ---- targets.online.from_update ----

FIXED = ("encoder.dropout=0", "optim.phases=[0,1,0]", "fit.save_every=1", "fit.log_every=1")


def run(corpus: Corpus, out: Path, steps: int, *keys: str) -> dict[str, torch.Tensor]:
    """Train the toy model; return its weights."""
    fixed = [f"data.corpus={corpus.root}", f"fit.steps={steps}", *FIXED]
    open_pretraining(load_config(TOY, [*fixed, *keys])).run(out)
    return weights_of(out)


def test_before_its_first_update_the_online_target_is_as_if_it_were_not_there(
    corpus: Corpus, tmp_path: Path
) -> None:
    late = run(corpus, tmp_path / "late", 3, "targets.online.from_update=3")
    without = run(corpus, tmp_path / "without", 3, "targets.online.weight=0")
    student = {name: value for name, value in late.items() if ".online." not in name}
    assert largest_difference(student, without) == 0
    prefix = "extractors.online.teacher."
    teacher = {n.removeprefix(prefix): v for n, v in late.items() if n.startswith(prefix)}
    encoder = {n.removeprefix("encoder."): v for n, v in late.items() if n.startswith("encoder.")}
    assert largest_difference(teacher, encoder) == 0
    assert [line["online_ema_decay"] for line in read_log(tmp_path / "late") if "lr" in line] == [
        0, 0, 0,
    ]  # fmt: skip


def test_from_then_on_it_is_learned_also_by_a_run_that_was_interrupted(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "targets.online.from_update=3"
    whole = run(corpus, tmp_path / "whole", 5, key)
    without = run(corpus, tmp_path / "without", 5, "targets.online.weight=0")
    assert (whole["mask_emb"] - without["mask_emb"]).abs().max() > 0
    decays = [line["online_ema_decay"] for line in read_log(tmp_path / "whole") if "lr" in line]
    assert decays[:3] == [0, 0, 0]
    assert all(0.999 <= decay < 0.9991 for decay in decays[3:])
    update = OnlineTargets.update
    with monkeypatch.context() as patch:
        patch.setattr(OnlineTargets, "update", lambda self, n: 1 / 0 if n == 4 else update(self, n))
        with pytest.raises(ZeroDivisionError):
            run(corpus, tmp_path / "broken", 5, key)
    assert largest_difference(run(corpus, tmp_path / "broken", 5, key), whole) == 0


def test_a_run_of_an_earlier_revision_goes_on(corpus: Corpus, tmp_path: Path) -> None:
    run(corpus, tmp_path / "run", 2)
    stored = checkpoint.load(tmp_path / "run" / "checkpoint.pt")
    assert "from_update" not in stored["config"]["targets"]["online"]
    run(corpus, tmp_path / "run", 2)
    with pytest.raises(CheckpointError, match="from_update: not set there, 1 here"):
        run(corpus, tmp_path / "run", 2, "targets.online.from_update=1")
