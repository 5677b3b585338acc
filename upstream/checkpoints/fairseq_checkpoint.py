"""Official MT4SSL and fairseq checkpoints, read without fairseq."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from mt4ssl_bench.data.frame_grid import KERNELS, STRIDES
from mt4ssl_bench.errors import CheckpointError
from mt4ssl_bench.settings import Json
from mt4ssl_bench.upstream.checkpoints.untrusted import (
    ThirdPartyCheckpoint,
    plain,
    read_third_party,
    tensors,
)
from mt4ssl_bench.upstream.checkpoints.weight_names import from_official

# fairseq's setting -> recipe key; others have no counterpart or follow from the weights' shapes
_SETTINGS = {
    "encoder_layers": "encoder.layers",  # shapes do not show a lost last one
    "pos_conv_depth": "encoder.pos_depth",
    "encoder_attention_heads": "encoder.heads",
    "dropout": "encoder.dropout",
    "attention_dropout": "encoder.attention_dropout",
    "activation_dropout": "encoder.activation_dropout",
    "encoder_layerdrop": "encoder.layer_drop",
    "mask_prob": "masking.prob",
    "mask_length": "masking.length",
    "require_same_masks": "masking.equalize",
    "average_top_k_layers": "targets.online.top_k",
    "ema_decay": "targets.online.ema_start",
    "ema_end_decay": "targets.online.ema_end",
    "ema_anneal_end_step": "targets.online.ema_steps",
}
# names of tensors -> the part of another architecture that they belong to
_OTHERS = (
    (r"modality_encoders\..*", "data2vec 2.0's encoder"),
    (
        r"feature_extractor\.conv_layers\.0\.2\.(weight|bias)",
        "a front end with one group norm instead of layer norms",
    ),
    (r"feature_extractor\.conv_layers\.\d+\.0\.bias", "biases in the front end's convolutions"),
    (
        r"encoder\.pos_conv\.\d+\.(weight_[gv]|bias|parametrizations\..*)",
        "one weight-normed positional convolution",
    ),
    (r"(quantizer|project_q|project_hid|target_glu)\..*", "wav2vec 2.0's quantizer"),
    (r"label_embs_concat", "HuBERT's label embeddings"),
    (r"encoder\.layers\.\d+\.self_attn\.(grep_.*|relative_.*)", "WavLM's relative positions"),
)
_FINETUNED = "w2v_encoder.w2v_model."


def read_fairseq(path: Path) -> ThirdPartyCheckpoint:
    """Read an official MT4SSL or fairseq data2vec checkpoint, pretrained or fine-tuned.

    Raises:
        CheckpointError: If the file cannot be read safely, or is of another architecture; names the
            differences.
    """
    payload = read_third_party(path)
    if "format" in payload and str(payload["format"]).startswith("mt4ssl-bench"):
        raise CheckpointError(f"{path}: is a checkpoint of mt4ssl-bench already; use it as it is")
    model = payload.get("model")
    if not isinstance(model, Mapping):
        raise CheckpointError(
            f"{path}: no 'model' in it (only {', '.join(map(str, list(payload)[:8]))})"
        )
    state, notes = tensors(model), []
    if any(name.startswith(_FINETUNED) for name in state):
        left = [name for name in state if not name.startswith(_FINETUNED)]
        notes.append(f"fine-tuned: {', '.join(left)} not converted" if left else "fine-tuned")
        state = {
            name.removeprefix(_FINETUNED): tensor
            for name, tensor in state.items()
            if name not in left
        }
    settings, task = _read_settings(payload)
    _check_architecture(path, state, settings)
    try:
        renamed = from_official(state, tensors(model.get("_ema")))
    except KeyError as error:
        raise CheckpointError(f"{path}: {error.args[0]}: MT4SSL has no such tensor") from None
    keys = [
        f"{ours}={settings[theirs]}"
        for theirs, ours in _SETTINGS.items()
        if isinstance(settings.get(theirs), int | float)
    ]
    if isinstance(task.get("normalize"), bool):
        keys.append(f"frontend.normalize={task['normalize']}")
    else:
        notes.append(
            "its settings do not say whether waveforms are normalized: assumed they are, as "
            "published"
        )
    kind = settings.get("_name") or (
        "multi2vec" if "final_proj_hubert.weight" in state else "data2vec_audio"
    )
    history = plain(payload.get("optimizer_history"))
    updates = (
        _dict(history[-1]).get("num_updates") if isinstance(history, list) and history else None
    )
    return ThirdPartyCheckpoint(
        kind=f"fairseq {kind}",
        state=renamed,
        keys=keys,
        notes=notes,
        updates=updates if isinstance(updates, int) else None,
    )


def _dict(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, dict) else {}


def _read_settings(payload: Mapping[str, object]) -> tuple[Mapping[str, Json], Mapping[str, Json]]:
    """Return the model's and the task's settings; older files have both in `args`."""
    args, config = _dict(plain(payload.get("args"))), _dict(plain(payload.get("cfg")))
    model, task = _dict(config.get("model")), _dict(config.get("task"))
    before = _dict(model.get("w2v_args"))  # of the pretrained model, in a fine-tuned one
    places = (_dict(before.get("model")), before, model, args)
    settings = next((place for place in places if "encoder_embed_dim" in place), {})
    return settings, next(
        (place for place in (_dict(before.get("task")), before, task, args) if place), {}
    )


def _check_architecture(path: Path, names: Iterable[str], settings: Mapping[str, Json]) -> None:
    """Raise CheckpointError with every difference if the model is not of MT4SSL's architecture."""
    others: dict[str, str] = {}  # part of another architecture -> its first tensor
    for name in names:
        for pattern, part in _OTHERS:
            if re.fullmatch(pattern, name):
                others.setdefault(part, name)
    differences = [f"{part} ({name})" for part, name in others.items()]
    if settings.get("layer_norm_first"):
        differences.append("LayerNorm before attention and feed-forward (layer_norm_first)")
    if settings.get("activation_fn", "gelu") != "gelu":
        differences.append(f"activation_fn {settings['activation_fn']}, not gelu")
    geometry = _read_geometry(str(settings.get("conv_feature_layers") or ""))
    if geometry not in ([], list(zip(KERNELS, STRIDES, strict=True))):
        differences.append(f"other convolutions ({settings['conv_feature_layers']})")
    if differences:
        raise CheckpointError(
            f"{path}: not MT4SSL's architecture: {'; '.join(differences)}; evaluate it through "
            f"s3prl instead, for example as hubert_local:{path} or wav2vec2_local:{path}"
        )


def _read_geometry(text: str) -> list[tuple[int, int]]:
    """Return kernel and stride of each layer in fairseq's "[(512, 10, 5)] + [(512, 3, 2)] * 4"."""
    layers = []
    for kernel, stride, times in re.findall(
        r"\(\s*\d+\s*,\s*(\d+)\s*,\s*(\d+)\s*\)\s*\]?\s*(?:\*\s*(\d+))?", text
    ):
        layers += [(int(kernel), int(stride))] * int(times or 1)
    return layers
