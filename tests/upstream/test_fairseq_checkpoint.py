"""A checkpoint in fairseq's names and settings, written by torch and read without fairseq."""

from pathlib import Path
from typing import Any

import pytest
import torch

from builders import identical, toy_config, toy_model
from mt4ssl_bench.errors import CheckpointError
from mt4ssl_bench.upstream.checkpoints.fairseq_checkpoint import read_fairseq
from mt4ssl_bench.upstream.checkpoints.weight_names import TEACHER, rename

MODEL = {  # fairseq's settings of the toy model
    "_name": "multi2vec", "encoder_embed_dim": 32, "encoder_layers": 2, "encoder_attention_heads": 2,
    "encoder_layerdrop": 0.05, "mask_prob": 0.65, "ema_decay": 0.999, "average_top_k_layers": 2,
    "conv_feature_layers": "[(32, 10, 5)] + [(32, 3, 2)] * 4 + [(32, 2, 2)] * 2",
}  # fmt: skip


def write(path: Path, model: dict[str, Any], **changes: Any) -> Path:
    cfg = {"model": MODEL | changes, "task": {"normalize": True}}
    torch.save({"cfg": cfg, "model": model, "optimizer_history": [{"num_updates": 7}]}, path)
    return path


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return toy_model(seed=1).state_dict()


@pytest.fixture(scope="module")
def official(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    student = {name: t for name, t in state.items() if not name.startswith(TEACHER)}
    teacher = {
        "encoder." + name.removeprefix(TEACHER): t
        for name, t in state.items()
        if name.startswith(TEACHER)
    }
    theirs = {
        name.removeprefix("encoder."): t for name, t in rename(teacher, "ours", "official").items()
    }
    return rename(student, "ours", "official") | {"_ema": theirs}


def test_every_tensor_comes_back_bit_by_bit_with_its_settings(
    state: dict[str, torch.Tensor], official: dict[str, Any], tmp_path: Path
) -> None:
    assert "encoder.layers.0.self_attn.q_proj.weight" in official
    found = read_fairseq(write(tmp_path / "a.pt", official))
    assert identical(found.state, dict(state))
    assert {"encoder.layers=2", "encoder.heads=2", "masking.prob=0.65", "targets.online.top_k=2",
            "targets.online.ema_start=0.999", "frontend.normalize=True"} <= set(found.keys)  # fmt: skip
    assert (found.kind, found.updates, found.notes) == ("fairseq multi2vec", 7, [])
    assert toy_config(*(key for key in found.keys if "layers" in key)).encoder.layers == 2


@pytest.mark.parametrize(
    ("changes", "extra", "reason"),
    [
        ({"layer_norm_first": True}, {}, "layer_norm_first"),
        ({"activation_fn": "relu"}, {}, "relu"),
        ({"conv_feature_layers": "[(32, 10, 5)] + [(32, 8, 4)]"}, {}, "convolutions"),
        ({}, {"quantizer.vars": torch.zeros(1)}, "wav2vec 2.0"),
        ({}, {"label_embs_concat": torch.zeros(1)}, "HuBERT"),
        ({}, {"somebody.elses": torch.zeros(1)}, "somebody.elses"),
    ],
)
def test_another_architecture_is_named(
    official: dict[str, Any],
    tmp_path: Path,
    changes: dict[str, Any],
    extra: dict[str, Any],
    reason: str,
) -> None:
    with pytest.raises(CheckpointError, match=rf"a\.pt: .*{reason}"):
        read_fairseq(write(tmp_path / "a.pt", official | extra, **changes))
