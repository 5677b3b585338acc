"""Kinds of encoders: this package's, and one that another package adds through an entry point."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mt4ssl_bench.cli.app import app
from mt4ssl_bench.encoders.finetuning import TuneConfig
from mt4ssl_bench.encoders.kind import ENCODERS, EncoderKind, rebuild, trainable
from mt4ssl_bench.encoders.load import load_upstream, split_kind
from mt4ssl_bench.errors import BenchError, ConfigError, UpstreamError

DATA = Path(__file__).parents[1] / "fixtures"
TOY = f"random:{DATA / 'toy.yaml'}"
PLUG_IN = '''
"""Log energy of frames through a learnt map, from another package."""
import copy

import torch
from torch import nn
from mt4ssl_bench.encoders.kind import EncoderKind
from mt4ssl_bench.encoders.protocol import Features
from mt4ssl_bench.errors import UpstreamError


class Energy(nn.Module):
    num_layers, stride, fingerprint = 2, 320, "toy"

    def __init__(self, dim):
        super().__init__()
        self.name, self.dim = f"toykind:{dim}", dim
        self.blueprint = {"kind": "toykind", "dim": dim}
        self.net = nn.Linear(320, dim)
        nn.init.constant_(self.net.weight, 0.01)
        nn.init.zeros_(self.net.bias)
        self.parameters = sum(p.numel() for p in self.net.parameters())

    def forward(self, waveforms, lengths, generator=None):
        frames = waveforms[:, : waveforms.shape[1] // 320 * 320].unflatten(1, (-1, 320))
        energy = frames.square().mean(-1, keepdim=True).add(1e-6).log().expand(-1, -1, self.dim)
        return Features(torch.stack([energy, self.net(frames)]), lengths // 320)

    @torch.no_grad()
    def extract(self, waveforms, lengths):
        return self(waveforms, lengths)

    def trainable(self, config):
        made = Tuned(self.dim)
        made.load_state_dict(self.state_dict())
        return made


class Tuned(Energy):
    parameters = nn.Module.parameters

    def __init__(self, dim):
        nn.Module.__init__(self)
        self.dim, self.net = dim, nn.Linear(320, dim)


def load(argument, *, device):
    if not argument.isdecimal():
        raise UpstreamError(f"toykind:{argument}: expected a number of dimensions")
    return Energy(int(argument))


def build(blueprint, config):
    return Tuned(blueprint["dim"])


TOY = EncoderKind("toykind", "log energy, from a plug-in", load, build)
FROZEN = EncoderKind("toykind", "log energy, frozen only", load)
BROKEN = "no kind at all"
'''


@pytest.fixture(params=["TOY"])
def site(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A package with a kind of encoder, installed; entry points are read again."""
    info = tmp_path / "toy_plug_in-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-plug-in\nVersion: 1.0\n")
    point = f"[mt4ssl_bench.encoders]\ntoykind = toy_plug_in:{request.param}\n"
    (info / "entry_points.txt").write_text(point)
    (tmp_path / "toy_plug_in.py").write_text(PLUG_IN)
    monkeypatch.syspath_prepend(str(tmp_path))
    vars(ENCODERS).pop("_added", None)
    yield tmp_path
    sys.modules.pop("toy_plug_in", None)
    vars(ENCODERS).pop("_added", None)


def call(*arguments: str | Path) -> int:
    return app([str(argument) for argument in arguments], standalone_mode=False) or 0


def test_every_kind_of_this_package_loads_and_is_called_as_its_address_says() -> None:
    kinds = {name: ENCODERS.get(name) for name in ENCODERS}
    assert all(isinstance(kind, EncoderKind) and kind.name == name for name, kind in kinds.items())
    tunable = {name for name, kind in kinds.items() if kind.rebuild is not None}
    assert tunable == {"mt4ssl", "s3prl", "hf"}, "the kinds in the blueprints of old run folders"


@pytest.mark.parametrize(
    ("name", "kind", "argument"),
    [
        ("random:mt4ssl_tiny", "random", "mt4ssl_tiny"),
        ("hf:facebook/hubert-base-ls960", "hf", "facebook/hubert-base-ls960"),
        ("mine.py:Energy", "file", "mine.py:Energy"),
        ("runs/none", "checkpoint", "runs/none"),
        ("mt4ssl", "mt4ssl", ""),
        ("mt4ssl_local:runs/first", "mt4ssl_local", "runs/first"),
        ("fbank", "s3prl", "fbank"),
        ("hubert_local:a.pt", "s3prl", "hubert_local:a.pt"),
        ("toykind:4", "s3prl", "toykind:4"),
    ],
)
def test_a_name_belongs_to_one_kind(name: str, kind: str, argument: str) -> None:
    assert split_kind(name) == (kind, argument)


@pytest.mark.usefixtures("site")
def test_a_plug_ins_kind_loads_by_its_name_and_stands_in_the_list(
    capsys: pytest.CaptureFixture[str],
) -> None:
    upstream = load_upstream("toykind:4")
    assert (upstream.name, upstream.dim) == ("toykind:4", 4)
    assert call("check-upstream", "toykind:4", "--device", "cpu") == 0
    assert "2 hidden states of 4" in capsys.readouterr().out
    assert call("list") == 0
    listed = " ".join(capsys.readouterr().out.split())
    assert "toykind:<argument> log energy, from a plug-in" in listed
    assert "random:<recipe> an untrained model" in listed
    with pytest.raises(UpstreamError, match="toykind:four: expected a number"):
        load_upstream("toykind:four")
    with pytest.raises(UpstreamError, match="upstream 'toykind': .*; write toykind:<argument>"):
        load_upstream("toykind")


@pytest.mark.usefixtures("site")
def test_a_plug_ins_kind_that_can_be_rebuilt_is_fine_tuned() -> None:
    upstream = load_upstream("toykind:4")
    module = trainable(upstream, TuneConfig())
    with torch.no_grad():
        next(module.parameters()).add_(1)
    blueprint = {"kind": "toykind", "dim": 4}
    again = rebuild(blueprint, TuneConfig(), module.state_dict())
    waves, lengths = torch.randn(1, 3_200), torch.tensor([3_200])
    assert torch.equal(again(waves, lengths).layers, module(waves, lengths).layers)
    assert not torch.equal(again(waves, lengths).layers, upstream.extract(waves, lengths).layers)


@pytest.mark.parametrize("site", ["FROZEN"], indirect=True)
@pytest.mark.usefixtures("site")
def test_a_kind_without_rebuild_is_not_fine_tuned_and_says_so_in_one_line() -> None:
    with pytest.raises(UpstreamError) as raised:
        trainable(load_upstream("toykind:4"), TuneConfig())
    assert str(raised.value) == (
        "upstream 'toykind:4': cannot be fine-tuned, its kind 'toykind' has no rebuild; "
        "use mode=frozen"
    )
    with pytest.raises(UpstreamError, match="'toykind': has no rebuild"):
        rebuild({"kind": "toykind", "dim": 4}, TuneConfig(), {})


@pytest.mark.parametrize("site", ["BROKEN"], indirect=True)
@pytest.mark.usefixtures("site")
def test_a_plug_in_that_is_no_kind_costs_its_name_only(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"'toykind' of toy-plug-in 1\.0: .*is no EncoderKind"):
        load_upstream("toykind:4")
    assert load_upstream(TOY).num_layers == 3
    assert call("list") == 0
    assert "random:<recipe>" in capsys.readouterr().out


def test_a_blueprint_of_a_kind_that_is_not_installed_is_named() -> None:
    with pytest.raises(ConfigError, match="unknown kind of encoder 'toykind'"):
        rebuild({"kind": "toykind"}, TuneConfig(), {})
    with pytest.raises(BenchError, match="unknown kind of encoder 'None'"):
        rebuild({}, TuneConfig(), {})
