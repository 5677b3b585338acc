"""Kinds of MT4SSL encoders: checkpoints, untrained models, and the names in s3prl's hub."""

from mt4ssl_bench.encoders.kind import EncoderKind
from mt4ssl_bench.upstream.checkpoints.encoder_adapter import load_checkpoint, load_random
from mt4ssl_bench.upstream.checkpoints.finetuned import build
from mt4ssl_bench.upstream.expert import load_custom, load_default

CHECKPOINT = EncoderKind(
    "checkpoint",
    "an MT4SSL model: pretrained here, converted or exported to one file",
    load_checkpoint,
    example="<run folder, .pt or .safetensors file>",
)
RANDOM = EncoderKind(
    "random",
    "an untrained model of a pretraining recipe, a baseline",
    load_random,
    example="random:<recipe>",
)
# the names that register() adds to s3prl's hub
DEFAULT = EncoderKind(
    "mt4ssl",
    "the MT4SSL model in this package: 2.4 M parameters, 1.6 hours of English speech",
    load_default,
    build,  # of all kinds here: every MT4SSL upstream's blueprint is of kind "mt4ssl"
    example="mt4ssl",
)
LOCAL = EncoderKind(
    "mt4ssl_local",
    "a run folder or file, as s3prl's hub names it",
    load_checkpoint,
    example="mt4ssl_local:<path>",
)
URL = EncoderKind(
    "mt4ssl_url",
    "an MT4SSL checkpoint at an http(s) address, downloaded once",
    load_custom,
    example="mt4ssl_url:<URL>",
)
CUSTOM = EncoderKind(
    "mt4ssl_custom",
    "a path or an http(s) address, as s3prl's hub names it",
    load_custom,
    example="mt4ssl_custom:<path or URL>",
)
