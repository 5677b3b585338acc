"""Names of the same weights here, in the official code (fairseq) and in Hugging Face's."""

import re
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

# official: MT4SSL's and data2vec's; huggingface: Data2VecAudioModel's
Scheme = Literal["ours", "official", "huggingface"]
TEACHER = "extractors.online.teacher."

# {} stands for a layer's number, or for weight or bias. Query, key and value are one product here:
# see _split, _fuse.
_TABLE = (
    (
        "frontend.convs.{}",
        "feature_extractor.conv_layers.{}.0.weight",
        "feature_extractor.conv_layers.{}.conv.weight",
    ),
    (
        "frontend.conv_norms.{}.{}",
        "feature_extractor.conv_layers.{}.2.1.{}",
        "feature_extractor.conv_layers.{}.layer_norm.{}",
    ),
    ("frontend.norm.{}", "layer_norm.{}", "feature_projection.layer_norm.{}"),
    ("frontend.projection.{}", "post_extract_proj.{}", "feature_projection.projection.{}"),
    ("mask_emb", "mask_emb", "masked_spec_embed"),
    (
        "encoder.pos_convs.{}.{}",
        "encoder.pos_conv.{}.0.{}",
        "encoder.pos_conv_embed.layers.{}.conv.{}",
    ),
    ("encoder.norm.{}", "encoder.layer_norm.{}", "encoder.layer_norm.{}"),
    (
        "encoder.layers.{}.q.{}",
        "encoder.layers.{}.self_attn.q_proj.{}",
        "encoder.layers.{}.attention.q_proj.{}",
    ),
    (
        "encoder.layers.{}.k.{}",
        "encoder.layers.{}.self_attn.k_proj.{}",
        "encoder.layers.{}.attention.k_proj.{}",
    ),
    (
        "encoder.layers.{}.v.{}",
        "encoder.layers.{}.self_attn.v_proj.{}",
        "encoder.layers.{}.attention.v_proj.{}",
    ),
    (
        "encoder.layers.{}.out.{}",
        "encoder.layers.{}.self_attn.out_proj.{}",
        "encoder.layers.{}.attention.out_proj.{}",
    ),
    (
        "encoder.layers.{}.attention_norm.{}",
        "encoder.layers.{}.self_attn_layer_norm.{}",
        "encoder.layers.{}.layer_norm.{}",
    ),
    (
        "encoder.layers.{}.fc1.{}",
        "encoder.layers.{}.fc1.{}",
        "encoder.layers.{}.feed_forward.intermediate_dense.{}",
    ),
    (
        "encoder.layers.{}.fc2.{}",
        "encoder.layers.{}.fc2.{}",
        "encoder.layers.{}.feed_forward.output_dense.{}",
    ),
    (
        "encoder.layers.{}.final_norm.{}",
        "encoder.layers.{}.final_layer_norm.{}",
        "encoder.layers.{}.final_layer_norm.{}",
    ),
    ("extractors.online.head.{}", "final_proj.{}", ""),  # Hugging Face's model has no heads
    ("extractors.offline.head.{}", "final_proj_hubert.{}", ""),
)
_COLUMN: dict[Scheme, int] = {"ours": 0, "official": 1, "huggingface": 2}


def rename(state: Mapping[str, Tensor], source: Scheme, target: Scheme) -> dict[str, Tensor]:
    """Return the same tensors under the names of `target`.

    Raises:
        KeyError: For a name that is not in `source`.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in (_split(state) if source == "ours" else state).items():
        for row in _TABLE:
            pattern = re.escape(row[_COLUMN[source]]).replace(r"\{\}", r"([a-z0-9]+)")
            match = re.fullmatch(pattern, name) if row[_COLUMN[target]] else None
            if match:
                renamed[row[_COLUMN[target]].format(*match.groups())] = tensor
                break
        else:
            raise KeyError(name)
    return _fuse(renamed) if target == "ours" else renamed


def from_official(
    student: Mapping[str, Tensor], teacher: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return official tensors under the names here.

    Args:
        student: `model` of an official checkpoint.
        teacher: Its `model["_ema"]`, with names relative to the encoder.

    Raises:
        KeyError: For a tensor that belongs to no part of the model.
    """
    renamed = rename(
        {f"encoder.{name}": tensor for name, tensor in (teacher or {}).items()}, "official", "ours"
    )
    return rename(student, "official", "ours") | {
        TEACHER + name.removeprefix("encoder."): tensor for name, tensor in renamed.items()
    }


def _split(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `state` with queries, keys and values in three weights."""
    split: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if ".qkv." in name:
            split |= {
                name.replace(".qkv.", f".{part}."): t
                for part, t in zip("qkv", tensor.chunk(3), strict=True)
            }
        else:
            split[name] = tensor
    return split


def _fuse(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `state` with queries, keys and values in one weight.

    Raises:
        KeyError: If one of them is missing.
    """
    fused = {name: tensor for name, tensor in state.items() if not re.search(r"\.[qkv]\.", name)}
    for name in state:
        if re.search(r"\.[qkv]\.", name):
            parts = [state[re.sub(r"\.[qkv]\.", f".{part}.", name)] for part in "qkv"]
            fused[re.sub(r"\.[qkv]\.", ".qkv.", name)] = torch.cat(parts)
    return fused
