"""Hugging Face encoders as upstreams: what transformers gives for each utterance alone, whatever it
is batched with.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from mt4ssl_bench import checkpoint
from mt4ssl_bench.config import load, to_dict
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.downstream.evaluate import evaluate
from mt4ssl_bench.encoders.finetuning import Trainable, TuneConfig
from mt4ssl_bench.encoders.kind import rebuild, trainable
from mt4ssl_bench.encoders.load import load_upstream
from mt4ssl_bench.errors import CheckpointError, UpstreamError
from mt4ssl_bench.upstream.checkpoints.convert import convert
from mt4ssl_bench.upstream.checkpoints.export import to_huggingface
from mt4ssl_bench.upstream.config import PretrainConfig
from mt4ssl_bench.upstream.model import MT4SSL

transformers = pytest.importorskip("transformers")
TOY = Path(__file__).parents[1] / "fixtures" / "toy_phoneme.yaml"
SIZE: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip


def save(
    folder: Path,
    kind: str,
    *,
    masked: bool,
    normalize: bool = True,
    seed: int = 0,
    **settings: object,
) -> Path:
    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}Config")(**SIZE | settings)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    extractor = transformers.Wav2Vec2FeatureExtractor(
        do_normalize=normalize, return_attention_mask=masked
    )
    extractor.save_pretrained(folder)
    return folder


@pytest.fixture
def hubert(tmp_path: Path) -> Path:
    return save(tmp_path / "hubert", "Hubert", masked=False)


def waves() -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.tensor([9_000, 16_000, 9_000, 12_345])
    x = torch.randn(4, 16_000, generator=torch.Generator().manual_seed(1)) * torch.tensor(
        [[0.1], [0.2], [0.3], [0.05]]
    )
    for row, length in zip(x, lengths.tolist(), strict=True):
        row[:length] += 0.05  # an offset that normalisation takes away
        row[length:] = 0
    return x, lengths


@pytest.mark.parametrize(
    ("kind", "settings", "masked", "normalize", "pads"),
    [
        ("Hubert", {"feat_extract_norm": "group"}, False, True, True),
        ("WavLM", {"feat_extract_norm": "group"}, False, False, True),
        (
            "Wav2Vec2",
            {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
            True,
            True,
            True,
        ),
        ("WavLM", {"feat_extract_norm": "layer"}, True, False, True),
        ("Data2VecAudio", {"num_conv_pos_embeddings": 5, "conv_bias": False}, True, True, False),
    ],
)
def test_each_utterance_is_what_transformers_gives_for_it_alone(
    kind: str,
    settings: dict[str, Any],
    masked: bool,  # noqa: FBT001 - parameters of the test
    normalize: bool,  # noqa: FBT001
    pads: bool,  # noqa: FBT001
    tmp_path: Path,
) -> None:
    folder = save(tmp_path / "model", kind, masked=masked, normalize=normalize, **settings)
    upstream = load_upstream(f"hf:{folder}")
    assert (upstream.name, upstream.num_layers, upstream.dim, upstream.stride) == (
        "hf:model",
        3,
        32,
        320,
    )
    assert upstream.pads is pads  # type: ignore[attr-defined]
    x, lengths = waves()
    found = upstream.extract(x, lengths)
    assert found.layers.shape == (3, 4, 49, 32)
    assert found.lengths.tolist() == [27, 49, 27, 38]
    model = transformers.AutoModel.from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    for i, (length, frames) in enumerate(
        zip(lengths.tolist(), found.lengths.tolist(), strict=True)
    ):
        inputs = extractor(x[i, :length].numpy(), sampling_rate=16_000, return_tensors="pt")
        with torch.no_grad():
            alone = torch.stack(model(**inputs, output_hidden_states=True).hidden_states)[:, 0]
        assert alone.shape[1] == frames
        torch.testing.assert_close(found.layers[:, i, :frames], alone, atol=1e-5, rtol=0)


def test_the_fingerprint_is_of_weights_and_settings_not_of_the_folder(
    hubert: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "elsewhere"
    transformers.AutoModel.from_pretrained(hubert).save_pretrained(copy)
    transformers.AutoFeatureExtractor.from_pretrained(hubert).save_pretrained(copy)
    mark = load_upstream(f"hf:{hubert}").fingerprint
    assert load_upstream(f"hf:{copy}").fingerprint == mark
    raw = save(tmp_path / "raw", "Hubert", masked=False, normalize=False)
    other = save(tmp_path / "other", "Hubert", masked=False, seed=1)
    heads = save(tmp_path / "heads", "Hubert", masked=False, num_attention_heads=4)
    assert (
        len({mark, *(load_upstream(f"hf:{folder}").fingerprint for folder in (raw, other, heads))})
        == 4
    )


def test_a_random_hubert_is_evaluated_by_folder(
    hubert: Path, corpus: Corpus, tmp_path: Path
) -> None:
    outcome = evaluate(
        [f"hf:{hubert}"], [str(TOY)], corpus.root, out=tmp_path / "results", device="cpu"
    )
    assert outcome.failures == []
    assert [result.upstream["name"] for result in outcome.results] == ["hf:hubert"]
    assert outcome.results[0].upstream["parameters"] > 20_000


def test_a_copy_is_trained_and_rebuilt_from_its_weights(tmp_path: Path) -> None:
    hubert = save(tmp_path / "hubert", "Hubert", masked=False, layerdrop=0.9)
    upstream = load_upstream(f"hf:{hubert}")
    module = trainable(upstream, TuneConfig())
    before = upstream.extract(*waves())
    features = module.eval()(*waves())
    assert torch.equal(features.layers, before.layers)
    features.layers[-1].square().sum().backward()
    still = {name.split(".")[1] for name, p in module.named_parameters() if p.grad is None}
    assert still == {"masked_spec_embed", "feature_extractor"}  # no masks, fixed convolutions
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.1)
    assert torch.equal(upstream.extract(*waves()).layers, before.layers), (
        "the frozen upstream shares no weight"
    )
    assert isinstance(upstream, Trainable)
    again = rebuild(upstream.blueprint, TuneConfig(), module.state_dict())
    assert torch.equal(again.eval()(*waves()).layers, module(*waves()).layers)
    seeded = []
    for _ in range(2):
        torch.manual_seed(0)
        seeded.append(module.train()(*waves()).layers)
    assert len(seeded[0]) == 3
    assert torch.equal(*seeded), "dropout depends on torch's generator alone"


def test_names_that_cannot_be_loaded_say_what_is_needed(hubert: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UpstreamError, match="give a folder that holds config.json, model.safetensors and preproc"
    ):
        load_upstream(f"hf:{tmp_path / 'none'}")
    (hubert / "preprocessor_config.json").unlink()
    with pytest.raises(UpstreamError, match="preprocessor_config"):
        load_upstream(f"hf:{hubert}")
    with pytest.raises(UpstreamError, match="name a folder or a hub id"):
        load_upstream("hf:")


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def lose(part: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(weights: dict[str, torch.Tensor]) -> None:
        for name in [name for name in weights if part in name]:
            del weights[name]

    return change


def shrink(weights: dict[str, torch.Tensor]) -> None:
    name = "encoder.layers.1.attention.k_proj.weight"
    weights[name] = weights[name][:16].contiguous()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lose(".layers.1."), r"16 weights missing \(encoder\.layers\.1\..* and 13 more\)"),
        (lose("layers.0.final_layer_norm.bias"), "1 weights missing .*0.final_layer_norm.bias"),
        (lose("original0"), "pos_conv_embed.conv.parametrizations.weight.original0"),
        (shrink, r"of another shape \(.*k_proj.weight is \(16, 32\), not \(32, 32\)\)"),
    ],
)
def test_a_missing_weight_is_named_and_never_random(
    change: Callable[[dict[str, torch.Tensor]], None], says: str, hubert: Path, tmp_path: Path
) -> None:
    upstream = load_upstream(f"hf:{hubert}")
    rewrite(hubert, change)
    with pytest.raises(UpstreamError, match=says):
        load_upstream(f"hf:{hubert}")
    assert isinstance(upstream, Trainable)
    with pytest.raises(UpstreamError, match=says):
        rebuild(upstream.blueprint, TuneConfig(), {})
    data2vec = save(tmp_path / "d", "Data2VecAudio", masked=True, num_conv_pos_embeddings=2)
    rewrite(data2vec, lose(".layers.1."))
    with pytest.raises(UpstreamError, match=r"18 weights missing \(encoder\.layers\.1"):
        convert(str(data2vec), tmp_path / "run")


def test_a_mask_embedding_may_be_missing_and_heads_may_be_too_many(
    hubert: Path, tmp_path: Path
) -> None:
    mark = load_upstream(f"hf:{hubert}").fingerprint
    rewrite(hubert, lose("masked_spec_embed"))
    assert load_upstream(f"hf:{hubert}").fingerprint == mark, "nothing of it is random"
    torch.manual_seed(0)
    config = transformers.HubertConfig(**SIZE, vocab_size=5)
    transformers.HubertForCTC(config).save_pretrained(tmp_path / "ctc")
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "ctc")
    assert load_upstream(f"hf:{tmp_path / 'ctc'}").num_layers == 3


def test_old_names_of_the_normed_convolution_are_the_same_weights(hubert: Path) -> None:
    mark = load_upstream(f"hf:{hubert}").fingerprint

    def rename(weights: dict[str, torch.Tensor]) -> None:
        for number, letter in (("0", "g"), ("1", "v")):
            stem = "encoder.pos_conv_embed.conv."
            weights[f"{stem}weight_{letter}"] = weights.pop(
                f"{stem}parametrizations.weight.original{number}"
            )

    rewrite(hubert, rename)
    assert load_upstream(f"hf:{hubert}").fingerprint == mark


def test_random_weights_of_a_model_that_s3prl_builds_are_named(hubert: Path) -> None:
    name = f"hf_hubert_custom:{hubert}"
    mark = load_upstream(name).fingerprint
    rewrite(hubert, lose("masked_spec_embed"))
    assert load_upstream(name).fingerprint == load_upstream(name).fingerprint
    assert mark
    rewrite(hubert, lose(".layers.1."))
    with pytest.raises(
        UpstreamError, match=r"weights are not in its checkpoint \(model\.encoder\.layers\.1\."
    ):
        load_upstream(name)


def test_models_that_do_not_read_waveforms_are_refused(tmp_path: Path) -> None:
    config = transformers.WhisperConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        vocab_size=60, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    transformers.WhisperModel(config).save_pretrained(tmp_path / "w")
    transformers.WhisperFeatureExtractor().save_pretrained(tmp_path / "w")
    with pytest.raises(
        UpstreamError, match="a whisper model does not read waveforms frame by frame"
    ):
        load_upstream(f"hf:{tmp_path / 'w'}")


def test_too_short_and_too_long_audio_is_refused(hubert: Path) -> None:
    upstream = load_upstream(f"hf:{hubert}")
    with pytest.raises(UpstreamError, match="399 samples is too short"):
        upstream.extract(torch.zeros(1, 399), torch.tensor([399]))
    with pytest.raises(UpstreamError, match="audio of 1800 s, at most 600"):
        upstream.extract(torch.zeros(1, 1).expand(1, 1800 * 16_000), torch.tensor([1800 * 16_000]))


@pytest.mark.speech
def test_an_exported_model_hears_real_speech_as_the_run_does(speech: Path, tmp_path: Path) -> None:
    config = load(PretrainConfig, str(TOY.with_name("toy.yaml")))
    torch.manual_seed(0)
    payload = {"kind": "mt4ssl", "config": to_dict(config), "model": MT4SSL(config).state_dict()}
    checkpoint.save(payload, tmp_path / "run" / "checkpoint.pt")
    to_huggingface(tmp_path / "run", tmp_path / "hf")
    ours, theirs = load_upstream(str(tmp_path / "run")), load_upstream(f"hf:{tmp_path / 'hf'}")
    files = sorted((speech / "fsdd_strings").rglob("*.flac")) or sorted(
        (speech / "fsdd_strings").rglob("*.wav")
    )
    for file in files[:: len(files) // 8]:
        wave = torch.from_numpy(soundfile.read(file, dtype="float32")[0])[None]
        a, b = (
            upstream.extract(wave, torch.tensor([wave.shape[1]])).layers
            for upstream in (ours, theirs)
        )
        # the extractor adds 1e-7 to the variance, training 1e-5: the quietest recording's variance
        # is 1e-4
        assert ((a - b).norm() / a.norm()).item() < 1e-3


def test_without_transformers_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UpstreamError, match=r"pip install 'mt4ssl-bench\[hf\]'"):
        load_upstream("hf:any/model")


def test_only_data2vec_audio_is_converted(hubert: Path, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match="a hubert model.* one group norm.* one weight-normed positional"
    ):
        convert(str(hubert), tmp_path / "run")
    other = save(
        tmp_path / "d", "Data2VecAudio", masked=True, num_conv_pos_embeddings=5, hidden_act="relu"
    )
    with pytest.raises(CheckpointError, match="hidden_act is relu, not gelu"):
        convert(f"hf:{other}", tmp_path / "run")
    config = transformers.Data2VecAudioConfig(
        **SIZE | {"num_conv_pos_embeddings": 5}, mask_time_prob=0.0, vocab_size=5
    )
    transformers.Data2VecAudioForCTC(config).save_pretrained(tmp_path / "ctc")
    transformers.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(tmp_path / "ctc")
    made = convert(str(tmp_path / "ctc"), tmp_path / "run")
    assert made.config.frontend.normalize is False
    assert made.notes == [
        "lm_head.bias not converted", "lm_head.weight not converted",
        "no mask embedding in it: a random one (only pretraining needs it)",
    ]  # fmt: skip
    assert load_upstream(str(tmp_path / "run")).fingerprint == made.fingerprint
