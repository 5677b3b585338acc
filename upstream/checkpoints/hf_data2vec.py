"""Hugging Face's Data2VecAudio models, whose architecture is MT4SSL's: reading and writing."""

from collections.abc import Mapping
from pathlib import Path

from mt4ssl_bench.data.frame_grid import KERNELS, STRIDES
from mt4ssl_bench.encoders.kinds.hf import import_transformers, load_model
from mt4ssl_bench.errors import CheckpointError
from mt4ssl_bench.settings import Json
from mt4ssl_bench.upstream.checkpoints.checkpoint_file import student
from mt4ssl_bench.upstream.checkpoints.untrusted import ThirdPartyCheckpoint, tensors
from mt4ssl_bench.upstream.checkpoints.weight_names import rename
from mt4ssl_bench.upstream.kernels import EPS
from mt4ssl_bench.upstream.model import MT4SSL

KIND = "data2vec-audio"
_FIELDS = {  # EncoderConfig's field -> Data2VecAudioConfig's
    "layers": "num_hidden_layers",
    "dim": "hidden_size",
    "ffn": "intermediate_size",
    "heads": "num_attention_heads",
    "pos_depth": "num_conv_pos_embeddings",
    "pos_kernel": "conv_pos_kernel_size",
    "pos_groups": "num_conv_pos_embedding_groups",
    "dropout": "hidden_dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "layer_drop": "layerdrop",
}
_FIXED = {  # the same in every MT4SSL model
    "conv_kernel": list(KERNELS),
    "conv_stride": list(STRIDES),
    "conv_bias": False,
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "layer_norm_eps": EPS,
    "add_adapter": False,
}


def read_huggingface(name: str) -> ThirdPartyCheckpoint:
    """Read a Data2VecAudio model by folder or hub id.

    Raises:
        CheckpointError: If it is of another architecture; names the differences.
        UpstreamError: If it cannot be loaded.
    """
    model, extractor, info, _ = load_model(name)
    _check_architecture(name, model.config.model_type, vars(model.config))
    notes = [f"{key} not converted" for key in sorted(info["unexpected_keys"])]
    state = tensors(model.state_dict())
    for key in info["missing_keys"]:  # load_model() accepts only a missing mask embedding
        del state[key]  # transformers has just initialized it randomly
    keys = [f"encoder.{ours}={getattr(model.config, theirs)}" for ours, theirs in _FIELDS.items()]
    return ThirdPartyCheckpoint(
        kind=f"Hugging Face {KIND}",
        state=rename(state, "huggingface", "ours"),
        keys=[*keys, f"frontend.normalize={bool(extractor.do_normalize)}"],
        notes=notes,
    )


def write_huggingface(model: MT4SSL, folder: Path) -> None:
    """Write the files that transformers' AutoModel and AutoFeatureExtractor load.

    Raises:
        CheckpointError: If the front end is not Data2VecAudio's.
    """
    transformers = import_transformers("export --to hf")
    config = model.config
    if config.frontend.mels or config.frontend.stack > 1:
        raise CheckpointError(
            f"--to hf: {KIND} has neither a filter bank nor stacked frames (frontend.mels="
            f"{config.frontend.mels}, frontend.stack={config.frontend.stack}); use --to s3prl"
        )
    fields = {theirs: getattr(config.encoder, ours) for ours, theirs in _FIELDS.items()}
    other = transformers.Data2VecAudioModel(
        transformers.Data2VecAudioConfig(
            conv_dim=[config.frontend.channels] * len(KERNELS), **fields, **_FIXED
        )
    )
    other.load_state_dict(rename(student(model.state_dict()), "ours", "huggingface"))
    other.save_pretrained(folder)
    # transformers writes it readable only by its owner
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)
    transformers.Wav2Vec2FeatureExtractor(
        do_normalize=config.frontend.normalize, return_attention_mask=True
    ).save_pretrained(folder)


def _check_architecture(name: str, kind: str, settings: Mapping[str, Json]) -> None:
    """Raise CheckpointError, with what differs, if a model is not of MT4SSL's architecture."""
    if kind != KIND:
        parts = []
        if settings.get("feat_extract_norm") == "group":
            parts.append("a front end with one group norm")
        if settings.get("conv_bias"):
            parts.append("biases in the front end's convolutions")
        if "num_conv_pos_embeddings" in settings:
            parts.append("one weight-normed positional convolution")
        raise CheckpointError(
            f"hf:{name}: a {kind} model, only {KIND} has MT4SSL's architecture"
            f"{': it has ' if parts else ''}{', '.join(parts)}; "
            f"evaluate it as it is: mt4ssl-bench evaluate hf:{name} ..."
        )
    plain = {
        key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()
    }
    wrong = [
        f"{key} is {plain[key]}, not {value}"
        for key, value in _FIXED.items()
        if plain[key] != value
    ]
    sizes = plain["conv_dim"]
    if isinstance(sizes, list) and len(set(sizes)) > 1:
        wrong.append(f"conv_dim is {sizes}, not one size")
    if wrong:
        raise CheckpointError(f"hf:{name}: not MT4SSL's architecture: {'; '.join(wrong)}")
