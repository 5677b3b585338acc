"""Hugging Face's Data2VecAudio, which is MT4SSL's encoder: read into our terms, and our encoder
written as one.
"""

from pathlib import Path
from typing import Any

from mt4ssl_bench.data.frame_grid import KERNELS, STRIDES
from mt4ssl_bench.encoders.hf_model import import_transformers, load_model
from mt4ssl_bench.errors import CheckpointError
from mt4ssl_bench.upstream.checkpoints.untrusted import Found, tensors
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
_FIXED = {  # what MT4SSL's architecture leaves no choice about
    "conv_kernel": list(KERNELS),
    "conv_stride": list(STRIDES),
    "conv_bias": False,
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "layer_norm_eps": EPS,
    "add_adapter": False,
}


def read_huggingface(name: str) -> Found:
    """Read a Data2VecAudio model by folder or hub id.

    Raises CheckpointError for another architecture, saying what differs, UpstreamError where it
    cannot be loaded.
    """
    model, extractor, info = load_model(name)
    _check_architecture(name, model.config)
    notes = [f"{key} left behind" for key in sorted(info["unexpected_keys"])]
    state = tensors(model.state_dict())
    for key in info["missing_keys"]:  # only what load_model() lets pass: the mask embedding
        del state[key]  # transformers has just initialized it randomly
    keys = [f"encoder.{ours}={getattr(model.config, theirs)}" for ours, theirs in _FIELDS.items()]
    return Found(
        kind=f"Hugging Face {KIND}",
        state=rename(state, "huggingface", "ours"),
        keys=[*keys, f"frontend.normalize={bool(extractor.do_normalize)}"],
        notes=notes,
    )


def write_huggingface(model: MT4SSL, folder: Path) -> None:
    """Write config.json, model.safetensors and preprocessor_config.json for AutoModel and
    AutoFeatureExtractor.
    """
    transformers = import_transformers("export --to hf")
    config = model.config
    fields = {theirs: getattr(config.encoder, ours) for ours, theirs in _FIELDS.items()}
    other = transformers.Data2VecAudioModel(
        transformers.Data2VecAudioConfig(
            conv_dim=[config.frontend.channels] * len(KERNELS), **fields, **_FIXED
        )
    )
    own = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith("extractors.")
    }
    other.load_state_dict(rename(own, "ours", "huggingface"))
    other.save_pretrained(folder)
    (folder / "model.safetensors").chmod(
        (folder / "config.json").stat().st_mode
    )  # not for the owner alone
    transformers.Wav2Vec2FeatureExtractor(
        do_normalize=config.frontend.normalize, return_attention_mask=True
    ).save_pretrained(folder)


def _check_architecture(name: str, config: Any) -> None:  # noqa: ANN401 - transformers' configs
    if config.model_type != KIND:
        group = ["a front end with one group norm"] * (
            getattr(config, "feat_extract_norm", "") == "group"
        )
        bias = ["biases in the front end's convolutions"] * bool(
            getattr(config, "conv_bias", False)
        )
        single = ["one weight-normed positional convolution"] * hasattr(
            config, "num_conv_pos_embeddings"
        )
        raise CheckpointError(
            f"hf:{name}: a {config.model_type} model, only {KIND} has MT4SSL's architecture"
            f"{': it has ' if group or bias or single else ''}"
            f"{', '.join([*group, *bias, *single])}; "
            f"evaluate it as it is: mt4ssl-bench evaluate hf:{name} ..."
        )
    plain = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in vars(config).items()
    }
    wrong = [
        f"{key} is {plain[key]}, not {want}" for key, want in _FIXED.items() if plain[key] != want
    ]
    if len(set(plain["conv_dim"])) > 1:
        wrong.append(f"conv_dim is {plain['conv_dim']}, not one size")
    if wrong:
        raise CheckpointError(f"hf:{name}: not MT4SSL's architecture: {'; '.join(wrong)}")
