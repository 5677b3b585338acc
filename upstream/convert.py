"""Weights between naming schemes: the official MT4SSL names (fairseq's) and ours hold the same tensors."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# official name -> ours; {} stands for an index
_RULES = (
    (r"feature_extractor\.conv_layers\.(\d+)\.0\.weight", r"frontend.convs.\1"),
    (r"feature_extractor\.conv_layers\.(\d+)\.2\.1\.(weight|bias)", r"frontend.conv_norms.\1.\2"),
    (r"layer_norm\.(weight|bias)", r"frontend.norm.\1"),
    (r"post_extract_proj\.(weight|bias)", r"frontend.projection.\1"),
    (r"mask_emb", r"mask_emb"),
    (r"encoder\.pos_conv\.(\d+)\.0\.(weight|bias)", r"encoder.pos_convs.\1.\2"),
    (r"encoder\.layer_norm\.(weight|bias)", r"encoder.norm.\1"),
    (r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.(weight|bias)", r"encoder.layers.\1.out.\2"),
    (r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.(weight|bias)", r"encoder.layers.\1.attention_norm.\2"),
    (r"encoder\.layers\.(\d+)\.(fc1|fc2)\.(weight|bias)", r"encoder.layers.\1.\2.\3"),
    (r"encoder\.layers\.(\d+)\.final_layer_norm\.(weight|bias)", r"encoder.layers.\1.final_norm.\2"),
    (r"final_proj\.(weight|bias)", r"extractors.online.head.\1"),
    (r"final_proj_hubert\.(weight|bias)", r"extractors.offline.head.\1"),
)
_QKV = re.compile(r"(encoder\.layers\.\d+)\.self_attn\.([qkv])_proj\.(weight|bias)")


def from_official(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return our state dict of official tensors; `teacher` has names relative to the encoder (`model["_ema"]`).

    Raises KeyError for a tensor that belongs to no part of the model.
    """
    converted = _rename(student)
    if teacher is not None:
        renamed = _rename({f"encoder.{name}": tensor for name, tensor in teacher.items()})
        prefix = "extractors.online.teacher."
        converted |= {prefix + name.removeprefix("encoder."): tensor for name, tensor in renamed.items()}
    return converted


def _rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        attention = _QKV.fullmatch(name)
        if attention:  # query, key and value are one product here
            layer, part, kind = attention.groups()
            if part == "q":
                parts = [state[f"{layer}.self_attn.{p}_proj.{kind}"] for p in "qkv"]
                renamed[f"{layer}.qkv.{kind}"] = torch.cat(parts)
            continue
        for pattern, ours in _RULES:
            if re.fullmatch(pattern, name):
                renamed[re.sub(pattern, ours, name)] = tensor
                break
        else:
            raise KeyError(name)
    return renamed
