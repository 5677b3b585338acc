"""Checkpoints of others to a run folder of ours: weights move bit by bit, and what does not fit is
refused by name.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from mt4ssl_bench import checkpoint
from mt4ssl_bench.config import load, to_dict
from mt4ssl_bench.errors import CheckpointError, ConfigError, some
from mt4ssl_bench.upstream.checkpoints.checkpoint_file import KIND
from mt4ssl_bench.upstream.checkpoints.encoder_adapter import fingerprint
from mt4ssl_bench.upstream.checkpoints.fairseq_checkpoint import read_fairseq
from mt4ssl_bench.upstream.checkpoints.untrusted import Found
from mt4ssl_bench.upstream.checkpoints.weight_names import TEACHER
from mt4ssl_bench.upstream.config import PretrainConfig, check
from mt4ssl_bench.upstream.model import MT4SSL

HEAD_DIM = 64  # of every published model of this family; weights do not show the number of heads


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What was converted: the inferred config, the fingerprint of the encoder, and what to know
    about it.
    """

    kind: str
    config: PretrainConfig
    fingerprint: str
    parts: list[str]
    notes: list[str]


def convert(source: str, out: Path, keys: Sequence[str] = ()) -> Conversion:
    """Write the run folder `out` of an official, fairseq or Hugging Face checkpoint.

    Args:
        source: a fairseq checkpoint file, a Hugging Face folder, or hf:<id or folder>. out: folder
        that gets checkpoint.pt and config.json; evaluate, pretrain init= and export take it. keys:
        recipe keys that the file cannot say, for example encoder.heads=4.

    Raises CheckpointError for another architecture or an unsafe file, ConfigError for keys that do
    not fit.
    """
    if (out / "checkpoint.pt").exists():
        raise CheckpointError(f"{out}: holds a checkpoint already; choose another --out")
    found = read(source)
    name = Path(source.removeprefix("hf:")).name
    config = load(PretrainConfig, None, [*infer(source, found, keys), *found.keys, *keys])
    config = check(replace(config, about=f"converted from {name} ({found.kind})"))
    notes = list(found.notes)
    state = dict(found.state)
    if "mask_emb" not in state:
        state["mask_emb"] = torch.empty(config.encoder.dim).uniform_(
            generator=torch.Generator().manual_seed(0)
        )
        notes.append("no mask embedding in it: a new one (it matters to pretraining alone)")
    check_fits(source, config, state)
    stored = to_dict(config)
    origin = {"name": name, "kind": found.kind, "updates": found.updates}
    checkpoint.save(
        {"kind": KIND, "config": stored, "source": origin, "model": state}, out / "checkpoint.pt"
    )
    (out / "config.json").write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    parts = ["encoder"]
    parts += ["teacher"] * any(key.startswith(TEACHER) for key in state)
    parts += [
        f"{part} head"
        for part in ("offline", "online")
        if f"extractors.{part}.head.weight" in state
    ]
    return Conversion(
        kind=found.kind,
        config=config,
        fingerprint=fingerprint(config, state),
        parts=parts,
        notes=notes,
    )


def read(source: str) -> Found:
    """Return a foreign checkpoint in our terms.

    Raises CheckpointError where `source` leads nowhere.
    """
    path = Path(source)
    if source.startswith("hf:") or (path / "config.json").is_file():
        if (path / "checkpoint.pt").is_file():
            raise CheckpointError(
                f"{source}: is a run folder of mt4ssl-bench already; use it as it is"
            )
        from mt4ssl_bench.upstream.checkpoints.hf_data2vec import read_huggingface

        return read_huggingface(source.removeprefix("hf:"))
    if not path.exists():
        raise CheckpointError(
            f"{source}: no such file or folder; the id of a Hugging Face model is written hf:<id>"
        )
    if path.is_dir():
        raise CheckpointError(
            f"{source}: a folder without config.json; expected a Hugging Face folder or a .pt file"
        )
    return read_fairseq(path)


def infer(source: str, found: Found, keys: Sequence[str]) -> list[str]:
    """Return the recipe keys that the shapes of the weights say.

    What settings or `keys` say comes after them.
    """
    state = found.state
    try:
        dim, kernel = len(state["encoder.norm.weight"]), state["encoder.pos_convs.0.weight"].shape
        values: dict[str, object] = {
            "frontend.channels": len(state["frontend.convs.0"]),
            "encoder.dim": dim,
            "encoder.layers": sum(
                name.endswith(".fc1.weight") and name.startswith("encoder.") for name in state
            ),
            "encoder.ffn": len(state["encoder.layers.0.fc1.weight"]),
            "encoder.pos_depth": sum(name.startswith("encoder.pos_convs.") for name in state) // 2,
            "encoder.pos_kernel": kernel[2],
            "encoder.pos_groups": dim // kernel[1],
        }
    except KeyError as error:
        raise CheckpointError(
            f"{source}: not MT4SSL's architecture: {error.args[0]} is missing"
        ) from None
    if not any(key.startswith("encoder.heads=") for key in (*found.keys, *keys)):
        if dim % HEAD_DIM:
            raise ConfigError(
                f"{source}: does not say how many attention heads it has; add "
                "encoder.heads=<number>"
            )
        values["encoder.heads"] = dim // HEAD_DIM
        found.notes.append(
            f"its settings do not say how many attention heads: assumed {dim // HEAD_DIM}, 64 wide "
            "each"
        )
    values["targets.online.top_k"] = min(8, int(str(values["encoder.layers"])))
    online = any(name.startswith("extractors.online.") for name in state)
    if offline := state.get("extractors.offline.head.weight") is not None:
        values["targets.offline.clusters"] = len(state["extractors.offline.head.weight"])
    if online or offline:  # an encoder alone may be trained on any target
        values["targets.online.weight"], values["targets.offline.weight"] = (
            int(online),
            int(offline),
        )
    return [f"{key}={value}" for key, value in values.items()]


def check_fits(source: str, config: PretrainConfig, state: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError where the encoder is not complete or a tensor has another shape than
    the config says.
    """
    with torch.device("meta"):
        expected = {
            name: tuple(tensor.shape) for name, tensor in MT4SSL(config).state_dict().items()
        }
    missing = [
        name for name in expected if name not in state and not name.startswith("extractors.")
    ]
    extra = [name for name in state if name not in expected]
    shapes = [
        f"{name} is {tuple(tensor.shape)}, not {expected[name]}"
        for name, tensor in state.items()
        if name in expected and tuple(tensor.shape) != expected[name]
    ]
    for what, names in (
        ("missing", missing),
        ("not in MT4SSL", extra),
        ("of another shape", shapes),
    ):
        if names:
            raise CheckpointError(f"{source}: not MT4SSL's architecture: {what}: {some(names)}")
