"""Conversion of third-party checkpoints into run folders, without changing a bit of a weight."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from mt4ssl_bench import checkpoint
from mt4ssl_bench.config import load
from mt4ssl_bench.errors import CheckpointError, ConfigError, some
from mt4ssl_bench.upstream.checkpoints.checkpoint_file import KIND, Origin
from mt4ssl_bench.upstream.checkpoints.encoder_adapter import fingerprint
from mt4ssl_bench.upstream.checkpoints.fairseq_checkpoint import read_fairseq
from mt4ssl_bench.upstream.checkpoints.untrusted import ThirdPartyCheckpoint
from mt4ssl_bench.upstream.checkpoints.weight_names import TEACHER
from mt4ssl_bench.upstream.config import PretrainConfig, TargetsConfig, check
from mt4ssl_bench.upstream.model import MT4SSL
from mt4ssl_bench.upstream.recipe import to_stored

HEAD_DIM = 64  # of every published model of this family; weights do not show the number of heads


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A converted model: its inferred config, the encoder's fingerprint, and notes for the user."""

    kind: str
    config: PretrainConfig
    fingerprint: str
    parts: list[str]
    notes: list[str]


def convert(source: str, out: Path, keys: Sequence[str] = ()) -> Conversion:
    """Write the run folder `out` of an official, fairseq or Hugging Face checkpoint.

    Args:
        source: A fairseq checkpoint file, a Hugging Face folder, or hf:<folder, id or id@revision>.
        out: Folder that gets checkpoint.pt and config.json, for evaluate, init= and export.
        keys: Recipe keys that are not stored in the file, for example encoder.heads=4.

    Raises:
        CheckpointError: If the file is unsafe or of another architecture.
        ConfigError: If `keys` do not fit the weights.
    """
    if (out / "checkpoint.pt").exists():
        raise CheckpointError(f"{out}: holds a checkpoint already; choose another --out")
    other = read(source)
    name = Path(source.removeprefix("hf:")).name
    config = load(PretrainConfig, None, [*infer(source, other, keys), *other.keys, *keys])
    config = check(replace(config, about=f"converted from {name} ({other.kind})"))
    state, notes = dict(other.state), list(other.notes)
    if "mask_emb" not in state:
        state["mask_emb"] = torch.empty(config.encoder.dim).uniform_(
            generator=torch.Generator().manual_seed(0)
        )
        notes.append("no mask embedding in it: a random one (only pretraining needs it)")
    check_fits(source, config, state)
    stored = to_stored(config)
    origin: Origin = {"name": name, "kind": other.kind, "updates": other.updates}
    checkpoint.save(
        {"kind": KIND, "config": stored, "source": origin, "model": state}, out / "checkpoint.pt"
    )
    (out / "config.json").write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    parts = ["encoder"]
    if any(key.startswith(TEACHER) for key in state):
        parts.append("teacher")
    parts += [
        f"{extractor} head"
        for extractor in TargetsConfig().sections()
        if f"extractors.{extractor}.head.weight" in state
    ]
    return Conversion(
        kind=other.kind,
        config=config,
        fingerprint=fingerprint(config, state),
        parts=parts,
        notes=notes,
    )


def read(source: str) -> ThirdPartyCheckpoint:
    """Read a third-party checkpoint.

    Raises:
        CheckpointError: If there is none at `source`, or it cannot be converted.
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


def infer(source: str, other: ThirdPartyCheckpoint, keys: Sequence[str]) -> list[str]:
    """Return the recipe keys that follow from the shapes of the weights."""
    state = other.state
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
    if not any(key.startswith("encoder.heads=") for key in (*other.keys, *keys)):
        if dim % HEAD_DIM:
            raise ConfigError(
                f"{source}: does not say how many attention heads it has; add "
                "encoder.heads=<number>"
            )
        values["encoder.heads"] = dim // HEAD_DIM
        other.notes.append(
            f"its settings do not say how many attention heads: assumed {dim // HEAD_DIM}, 64 wide "
            "each"
        )
    values["targets.online.top_k"] = min(8, int(str(values["encoder.layers"])))
    online = any(name.startswith("extractors.online.") for name in state)
    head = state.get("extractors.offline.head.weight")
    if head is not None:
        values["targets.offline.clusters"] = len(head)
    if online or head is not None:  # a bare encoder may be trained on any target
        values["targets.online.weight"] = int(online)
        values["targets.offline.weight"] = int(head is not None)
    return [f"{key}={value}" for key, value in values.items()]


def check_fits(source: str, config: PretrainConfig, state: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError if a weight of the encoder is missing, or any weight does not fit."""
    with torch.device("meta"):
        expected = {name: tuple(t.shape) for name, t in MT4SSL(config).state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    missing = [
        name for name in expected if name not in state and not name.startswith("extractors.")
    ]
    unknown = [name for name in state if name not in expected]
    misshapen = [
        f"{name} is {shape}, not {expected[name]}"
        for name, shape in shapes.items()
        if name in expected and shape != expected[name]
    ]
    for problem, names in (
        ("missing", missing),
        ("not in MT4SSL", unknown),
        ("of another shape", misshapen),
    ):
        if names:
            raise CheckpointError(f"{source}: not MT4SSL's architecture: {problem}: {some(names)}")
