"""The protocol's checks, on models that keep it and on classes of a user's that break it, one way
each.
"""

import json
from pathlib import Path

import pytest
import torch

from builders import TOY
from fakes import USER_CLASS
from mt4ssl_bench.cli.app import app
from mt4ssl_bench.encoders.conformance import check, cost
from mt4ssl_bench.encoders.load import load_upstream
from mt4ssl_bench.errors import UpstreamError

BREAKS = {  # check -> (what stands in the good file, what breaks it, what the message says)
    "attributes": (
        "num_layers, dim, stride = 2, 4, 320",
        "num_layers, stride = 2, 320",
        "dim=None",
    ),
    "shapes": (
        "torch.stack([energy, self.net(frames)])",
        "torch.stack([energy, self.net(frames)], 1)",
        "got layers",
    ),
    "frame counts": ("stride = 2, 4, 320", "stride = 2, 4, 160", "100.0"),
    "finite": (".add(1e-6)", "", "hidden state 0 of 0-1: 188 of 400 values are NaN or infinite"),
    "determinism": ("torch.stack([energy", "torch.rand(1) + torch.stack([energy", "equal twice"),
    "padding": (
        "frames = wave",
        "waveforms = waveforms * waveforms.shape[1]; frames = wave",
        "on its own",
    ),
}


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(USER_CLASS, encoding="utf-8")
    return file


def test_a_class_in_a_file_is_an_upstream(mine: Path) -> None:
    upstream = load_upstream(f"{mine}:Energy")
    assert (upstream.name, upstream.num_layers, upstream.dim, upstream.stride) == (
        "mine:Energy",
        2,
        4,
        320,
    )
    assert upstream.parameters == 320 * 4 + 4
    features = upstream.extract(torch.zeros(1, 3_200), torch.tensor([3_200]))
    assert features.layers[0, 0, 0].tolist() == pytest.approx([torch.tensor(1e-6).log().item()] * 4)
    assert not features.layers.requires_grad


def test_its_fingerprint_follows_code_and_weights_and_not_the_path(
    mine: Path, tmp_path: Path
) -> None:
    (tmp_path / "copy").mkdir()
    same, code, weights = (
        tmp_path / "copy" / name for name in ("mine.py", "code.py", "weights.py")
    )
    same.write_text(USER_CLASS, encoding="utf-8")
    code.write_text(USER_CLASS.replace("1e-6", "1e-5"), encoding="utf-8")
    weights.write_text(USER_CLASS.replace("fill_(0.01)", "fill_(0.02)"), encoding="utf-8")
    first, *others = (
        load_upstream(f"{file}:Energy").fingerprint for file in (mine, same, code, weights)
    )
    assert [other == first for other in others] == [True, False, False]


@pytest.mark.parametrize("name", list(BREAKS))
def test_a_class_that_breaks_the_protocol_is_told_which_check(mine: Path, name: str) -> None:
    good, bad, says = BREAKS[name]
    assert good in USER_CLASS
    mine.write_text(USER_CLASS.replace(good, bad), encoding="utf-8")
    with pytest.raises(UpstreamError, match=f"breaks the protocol: {name}: expected .*{says}"):
        load_upstream(f"{mine}:Energy")


@pytest.mark.parametrize(
    ("made", "got"),
    [
        ("None", "NoneType and NoneType"),
        ("[energy, energy]", "Tensor and Tensor"),
        ("torch.stack([energy, energy])", "Tensor and NoneType"),
        ("(torch.stack([energy, energy]), 3)", "Tensor and int"),
    ],
)
def test_what_extract_returns_is_named_where_it_is_something_else(
    mine: Path, made: str, got: str
) -> None:
    good = "torch.stack([energy, self.net(frames)]), lengths // 320"
    mine.write_text(USER_CLASS.replace(good, made), encoding="utf-8")
    expected = (
        "shapes: expected .*layers"
        if got == "Tensor and Tensor"
        else f"shapes: expected two tensors.*got {got}"
    )
    with pytest.raises(UpstreamError, match=expected):
        load_upstream(f"{mine}:Energy")


def test_sizes_may_be_numpys_integers(mine: Path) -> None:
    sizes = "num_layers, dim, stride = __import__('numpy').array([2, 4, 320])"
    mine.write_text(
        USER_CLASS.replace("num_layers, dim, stride = 2, 4, 320", sizes), encoding="utf-8"
    )
    assert type(load_upstream(f"{mine}:Energy").dim) is int


@pytest.mark.parametrize(
    ("change", "name", "says"),
    [
        (("class Energy", "class Energie"), "Energy", "did you mean Energie"),
        (
            ("import torch\n", "import torhc\n"),
            "Energy",
            "could not be imported .ModuleNotFoundError: .*torhc",
        ),
        (
            ("self.device = device", "raise OSError('no weights')"),
            "Energy",
            "could not be built .OSError: no weights",
        ),
        (("def extract", "def forward"), "Energy", "no class with extract"),
        (("", ""), "", "write .*:<Class>"),
        (
            ("import torch\n", "import sys; sys.exit(4)\n"),
            "Energy",
            "could not be imported .SystemExit: 4",
        ),
    ],
)
def test_a_file_without_the_class_says_so(
    mine: Path, change: tuple[str, str], name: str, says: str
) -> None:
    mine.write_text(USER_CLASS.replace(*change) if change[0] else USER_CLASS, encoding="utf-8")
    with pytest.raises(UpstreamError, match=says):
        load_upstream(f"{mine}:{name}")


def test_our_models_and_s3prls_keep_the_protocol() -> None:
    for name in (f"random:{TOY}", "fbank", "stft_mag:log_stft_mag.yaml"):
        found = {one.name: one.outcome for one in check(load_upstream(name))}
        assert found.pop("gradients") == ("ok" if "toy" in name else "n/a"), name
        assert found == dict.fromkeys(BREAKS, "ok"), name


def test_operations_are_those_counted_by_hand() -> None:
    frames, channels, dim, ffn, layers, pos, groups, kernel = 499, 16, 32, 64, 2, 2, 16, 19
    per_frame = (
        channels * dim
        + pos * kernel * dim * dim // groups
        + layers * (4 * dim * dim + 2 * dim * ffn)
    )
    conv, n = 0, 160_000
    for i, (k, s) in enumerate(zip((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2), strict=True)):
        n = (n - k) // s + 1
        conv += n * k * channels * (1 if i == 0 else channels)
    attention = layers * 2 * frames * frames * dim
    expected = (conv + frames * per_frame + attention) / 10
    spent = cost(load_upstream(f"random:{TOY}"))
    assert spent.macs_per_second == pytest.approx(expected, rel=1e-3)
    assert spent.parameters == load_upstream(f"random:{TOY}").parameters
    assert spent.audio_per_second > 1


def test_the_command_prints_every_check_and_fails_by_exit_code(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*args: str) -> int:
        return (
            app(
                ["check-upstream", f"{mine}:Energy", "--device", "cpu", *args],
                standalone_mode=False,
            )
            or 0
        )

    assert run("--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in found["checks"]] == [*BREAKS, "gradients"]
    assert found["cost"]["parameters"] == 1_284
    mine.write_text(USER_CLASS.replace("lengths // 320", "lengths // 300"), encoding="utf-8")
    assert run() == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "mine:Energy breaks the protocol: shapes: expected layers (2, 3, 53, 4)" in said
