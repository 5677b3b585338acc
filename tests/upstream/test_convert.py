"""Checkpoints of others in, ours out: bit-equal round trips, refusals by name, and nothing in a
file is ever run.
"""

import argparse
import json
import logging
import os
import subprocess
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import Tensor

from builders import FIXTURES, call, record, toy_config, toy_model, write_run
from mt4ssl_bench import checkpoint, results
from mt4ssl_bench.config import from_dict
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.encoders.kinds.s3prl import load_s3prl
from mt4ssl_bench.encoders.load import load_upstream
from mt4ssl_bench.errors import CheckpointError, ConfigError
from mt4ssl_bench.upstream.checkpoints.convert import convert
from mt4ssl_bench.upstream.checkpoints.export import to_huggingface, to_s3prl
from mt4ssl_bench.upstream.checkpoints.untrusted import Inert, plain, read_third_party
from mt4ssl_bench.upstream.checkpoints.weight_names import TEACHER, from_official, rename
from mt4ssl_bench.upstream.config import PretrainConfig
from mt4ssl_bench.upstream.expert import register
from mt4ssl_bench.upstream.model import MT4SSL
from mt4ssl_bench.upstream.pretrain import open_pretraining

SETTINGS: dict[str, Any] = {
    "_name": "multi2vec", "encoder_embed_dim": 48, "encoder_attention_heads": 4, "average_top_k_layers": 3,
    "conv_feature_layers": "[(32, 10, 5)] + [(32, 3, 2)] * 4 + [(32,2,2)] + [(32,2,2)]", "dropout": 0.0,
    "attention_dropout": 0.0, "encoder_layerdrop": 0.05, "mask_prob": 0.65, "ema_end_decay": 0.9999,
    "layer_norm_first": False, "require_same_masks": True, "activation_fn": "gelu",
}  # fmt: skip


def case(part: str) -> dict[str, Tensor]:
    return {
        k.removeprefix(part): v
        for k, v in load_file(FIXTURES / "official_case.safetensors").items()
        if part in k[:9]
    }


def as_namespace(settings: dict[str, Any]) -> dict[str, Any]:
    return {"args": argparse.Namespace(**settings, normalize=True), "cfg": None}


def as_omegaconf(settings: dict[str, Any]) -> dict[str, Any]:
    return {"args": None, "cfg": OmegaConf.create({"model": settings, "task": {"normalize": True}})}


def as_containers(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "args": None,
        "cfg": {"model": settings, "task": {"_name": "multi2vec_pretraining", "normalize": True}},
    }


def write_official(path: Path, settings: dict[str, Any], state: dict[str, Any]) -> Path:
    counts: defaultdict[str, dict[str, int]] = defaultdict(dict)
    counts["x"]["y"] = 1
    payload = {
        **settings,
        "model": OrderedDict(state),
        "optimizer_history": [{"num_updates": 400_000}],
        "extra": counts,
    }
    torch.save(payload, path)
    return path


@pytest.fixture
def official(tmp_path: Path) -> Path:
    state = {**case("student."), "_ema": case("teacher.")}
    return write_official(tmp_path / "official.pt", as_omegaconf(SETTINGS), state)


@pytest.fixture
def converted(official: Path, tmp_path: Path) -> Path:
    convert(str(official), tmp_path / "converted")
    return tmp_path / "converted"


def encoder_of(run: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = checkpoint.load(run / "checkpoint.pt" if run.is_dir() else run)[
        "model"
    ]
    return {name: tensor for name, tensor in state.items() if not name.startswith("extractors.")}


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("written", [as_namespace, as_omegaconf, as_containers])
def test_an_official_checkpoint_becomes_a_run_folder(
    written: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    state = {**case("student."), "_ema": case("teacher.")}
    made = convert(
        str(write_official(tmp_path / "a.pt", written(SETTINGS), state)), tmp_path / "run"
    )
    assert made.parts == ["encoder", "teacher", "offline head", "online head"]
    assert made.notes == []
    encoder, targets = made.config.encoder, made.config.targets
    assert (encoder.layers, encoder.dim, encoder.ffn, encoder.heads) == (4, 48, 96, 4)
    assert (encoder.pos_depth, encoder.pos_kernel, encoder.pos_groups) == (5, 19, 16)
    assert (encoder.dropout, encoder.layer_drop, made.config.frontend.channels) == (0.0, 0.05, 32)
    assert (targets.offline.clusters, targets.online.top_k) == (
        25,
        3,
    )  # 21 clusters and fairseq's 4 special classes
    stored = checkpoint.load(tmp_path / "run" / "checkpoint.pt")
    assert_equal(stored["model"], from_official(case("student."), case("teacher.")))
    MT4SSL(from_dict(PretrainConfig, stored["config"])).load_state_dict(
        stored["model"]
    )  # heads and teacher too
    assert stored["source"] == {"name": "a.pt", "kind": "fairseq multi2vec", "updates": 400_000}
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == stored["config"]
    assert load_upstream(str(tmp_path / "run")).fingerprint == made.fingerprint


def test_official_names_come_back_bit_by_bit(converted: Path) -> None:
    state = checkpoint.load(converted / "checkpoint.pt")["model"]
    student = {name: tensor for name, tensor in state.items() if not name.startswith(TEACHER)}
    teacher = {
        "encoder." + n.removeprefix(TEACHER): t for n, t in state.items() if n.startswith(TEACHER)
    }
    assert_equal(rename(student, "ours", "official"), case("student."))
    assert_equal(
        {n.removeprefix("encoder."): t for n, t in rename(teacher, "ours", "official").items()},
        case("teacher."),
    )


def test_data2vec_fine_tuned_and_half_precision_files_are_read(tmp_path: Path) -> None:
    alone = {n: t for n, t in case("student.").items() if "hubert" not in n}
    data2vec = write_official(
        tmp_path / "d.pt", as_containers(SETTINGS | {"_name": "data2vec_audio"}), alone
    )
    made = convert(str(data2vec), tmp_path / "d")
    assert (made.kind, made.parts) == ("fairseq data2vec_audio", ["encoder", "online head"])
    assert made.config.targets.offline.weight == 0

    tuned = {
        f"w2v_encoder.w2v_model.{n}": t
        for n, t in alone.items()
        if "final" not in n or "layer" in n
    }
    tuned |= {
        "w2v_encoder.proj.weight": torch.zeros(32, 48),
        "w2v_encoder.proj.bias": torch.zeros(32),
    }
    settings = {
        "args": None,
        "cfg": {"model": {"_name": "wav2vec_ctc", "w2v_args": as_containers(SETTINGS)["cfg"]}},
    }
    made = convert(str(write_official(tmp_path / "t.pt", settings, tuned)), tmp_path / "t")
    assert made.parts == ["encoder"]
    assert made.notes == [
        "fine-tuned: w2v_encoder.proj.weight, w2v_encoder.proj.bias not converted"
    ]
    assert_equal(encoder_of(tmp_path / "t"), encoder_of(tmp_path / "d"))

    half = {n: t.half() for n, t in alone.items()}
    convert(str(write_official(tmp_path / "h.pt", as_containers(SETTINGS), half)), tmp_path / "h")
    assert_equal(
        encoder_of(tmp_path / "h"),
        {n: t.half().float() for n, t in encoder_of(tmp_path / "d").items()},
    )


def test_what_a_file_does_not_say_is_asked_for_or_noted(tmp_path: Path) -> None:
    silent = write_official(tmp_path / "a.pt", {"args": None, "cfg": None}, case("student."))
    with pytest.raises(ConfigError, match="add encoder.heads="):  # 48 is no multiple of 64
        convert(str(silent), tmp_path / "run")
    made = convert(str(silent), tmp_path / "run", ["encoder.heads=4", "targets.online.top_k=2"])
    assert made.config.targets.online.top_k == 2
    assert made.notes == [
        "its settings do not say whether waveforms are normalized: assumed they are, as published"
    ]
    with pytest.raises(CheckpointError, match="choose another --out"):
        convert(str(silent), tmp_path / "run", ["encoder.heads=4"])
    with pytest.raises(CheckpointError, match=r"fc1.weight is \(96, 48\), not \(64, 48\)"):
        convert(str(silent), tmp_path / "other", ["encoder.heads=4", "encoder.ffn=64"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"feature_extractor.conv_layers.0.2.weight": torch.ones(32)},
            "one group norm instead of layer norms",
        ),
        (
            {"encoder.pos_conv.0.weight_g": torch.ones(1)},
            r"weight-normed positional .*\(encoder.pos_conv.0.weight_g\)",
        ),
        ({"quantizer.vars": torch.ones(1)}, "wav2vec 2.0's quantizer .* evaluate it through s3prl"),
        ({"modality_encoders.AUDIO.x": torch.ones(1)}, "data2vec 2.0"),
        ({"who_knows": torch.ones(1)}, "who_knows: MT4SSL has no such tensor"),
        ({"encoder.layer_norm.weight": None}, "encoder.norm.weight is missing"),
        ({"encoder.layers.2.fc2.bias": None}, "missing: encoder.layers.2.fc2.bias"),
        ({"layer_norm_first": True}, "layer_norm_first"),
        ({"activation_fn": "relu"}, "relu, not gelu"),
        (
            {"conv_feature_layers": "[(32, 10, 5)] + [(32, 8, 4)] + [(32, 4, 2)] * 3"},
            "other convolutions",
        ),
    ],
)
def test_another_architecture_is_refused_by_what_differs(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    tensors = {k: v for k, v in change.items() if not isinstance(v, bool | str)}
    state = {k: v for k, v in (case("student.") | tensors).items() if v is not None}
    settings = SETTINGS | {k: v for k, v in change.items() if isinstance(v, bool | str)}
    with pytest.raises(CheckpointError, match=said):
        convert(
            str(write_official(tmp_path / "a.pt", as_containers(settings), state)), tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


def test_a_lost_last_layer_is_not_taken_for_a_smaller_model(tmp_path: Path) -> None:
    state = case("student.")
    last = max(int(name.split(".")[2]) for name in state if name.startswith("encoder.layers."))
    state = {k: v for k, v in state.items() if not k.startswith(f"encoder.layers.{last}.")}
    settings = as_containers(SETTINGS | {"encoder_layers": last + 1})
    with pytest.raises(CheckpointError, match=f"missing: encoder.layers.{last}."):
        convert(str(write_official(tmp_path / "a.pt", settings, state)), tmp_path / "run")


class Malicious:
    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize(
    ("evil", "refused"),
    [
        (Malicious(os.system, "touch ran"), "posix.system"),
        (Malicious(eval, "open('ran', 'w')"), None),
        (Malicious(exec, "open('ran', 'w')"), None),
        (Malicious(subprocess.check_call, ["touch", "ran"]), None),
        (
            Malicious(
                map, Malicious(getattr, Malicious(__import__, "os"), "system"), ["touch ran"]
            ),
            None,
        ),
        (Malicious(Path.touch, "ran"), "unrecognized function"),
    ],
)
def test_a_malicious_file_runs_nothing(
    evil: Malicious, refused: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_official(
        tmp_path / "evil.pt", as_containers(SETTINGS) | {"evil": evil}, case("student.")
    )
    if refused:
        with pytest.raises(CheckpointError, match=refused):
            convert(str(file), tmp_path / "run")
    else:
        assert isinstance(read_third_party(file)["evil"], Inert)
        assert convert(str(file), tmp_path / "run").parts == [
            "encoder",
            "offline head",
            "online head",
        ]
    with pytest.raises(CheckpointError, match="holds objects"):
        checkpoint.load(file)  # a checkpoint that claims to be ours gets no such leniency
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("trusted", [False, True])  # some libraries tell torch to build namespaces
def test_settings_survive_as_plain_values(tmp_path: Path, trusted: bool) -> None:  # noqa: FBT001
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([argparse.Namespace] if trusted else [])
    config = OmegaConf.create({"a": {"b": [1, 2.5, None]}, "c": "x"})
    torch.save({"n": argparse.Namespace(x=config, p=Path("y")), "big": 2**70}, tmp_path / "a.pt")
    try:
        read = read_third_party(tmp_path / "a.pt")
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(allowed)
    assert plain(read["n"]) == {"x": {"a": {"b": [1, 2.5, None]}, "c": "x"}, "p": "y"}
    assert plain(read["big"]) == 2**70


@pytest.mark.parametrize(
    "what", ["missing", "text", "cut", "legacy", "list", "ours", "no model", "folder", "run"]
)
def test_what_cannot_be_converted_says_why(what: str, converted: Path, tmp_path: Path) -> None:
    file, said = tmp_path / "bad.pt", "truncated, damaged"
    if what == "missing":
        said = "no such file or folder; the id of a Hugging Face model is written hf:"
    elif what == "text":
        file.write_text("hello" * 99)
        said = "not a zip file that torch.save wrote"
    elif what == "cut":
        file.write_bytes((converted / "checkpoint.pt").read_bytes()[:9_000])
    elif what == "legacy":
        torch.save({"model": {}}, file, _use_new_zipfile_serialization=False)
        said = "torch before 1.6"
    elif what == "list":
        torch.save([1], file)
        said = "holds a list"
    elif what == "no model":
        torch.save({"weights": {}}, file)
        said = r"no 'model' in it \(only weights\)"
    elif what == "ours":
        file = converted / "checkpoint.pt"
        said = "is a checkpoint of mt4ssl-bench already"
    elif what == "folder":
        file.mkdir()
        said = "a folder without config.json"
    else:
        file, said = converted, "is a run folder of mt4ssl-bench already"
    with pytest.raises(CheckpointError, match=said):
        convert(str(file), tmp_path / "out")


def test_an_exported_encoder_is_the_same_model_here_and_in_s3prl(
    converted: Path, tmp_path: Path
) -> None:
    file = tmp_path / "share" / "small.pt"
    mark = to_s3prl(converted, file)
    assert_equal(checkpoint.load(file)["model"], encoder_of(converted))
    assert file.stat().st_size < 0.6 * (converted / "checkpoint.pt").stat().st_size
    ours = load_upstream(str(file))
    assert ours.name == "small"
    assert ours.fingerprint == mark == load_upstream(str(converted)).fingerprint
    register()
    wave = torch.randn(1, 8_000, generator=torch.Generator().manual_seed(0))
    theirs = load_s3prl(f"mt4ssl_local:{file}", device="cpu").extract(wave, torch.tensor([8_000]))
    torch.testing.assert_close(
        theirs.layers, ours.extract(wave, torch.tensor([8_000])).layers, atol=1e-5, rtol=0
    )
    with pytest.raises(CheckpointError, match="exists already"):
        to_s3prl(converted, file)
    with pytest.raises(ConfigError, match=r"must end in \.pt"):
        to_s3prl(converted, tmp_path / "share" / "small")


def test_official_to_hugging_face_and_back_is_the_same_model(
    converted: Path, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    mark = to_huggingface(converted, tmp_path / "hf")
    assert sorted(p.name for p in (tmp_path / "hf").iterdir()) == [
        "README.md", "config.json", "model.safetensors", "preprocessor_config.json",
    ]  # fmt: skip
    again = convert(str(tmp_path / "hf"), tmp_path / "again")
    assert again.fingerprint == mark
    assert_equal(encoder_of(tmp_path / "again"), encoder_of(converted))
    assert (
        again.config.encoder
        == from_dict(PretrainConfig, checkpoint.load(converted / "checkpoint.pt")["config"]).encoder
    )

    model = transformers.AutoModel.from_pretrained(tmp_path / "hf").eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "hf")
    assert type(model).__name__ == "Data2VecAudioModel"
    assert (extractor.do_normalize, extractor.sampling_rate) == (True, 16_000)
    wave = torch.randn(12_000, generator=torch.Generator().manual_seed(0)) * 0.1
    inputs = extractor(wave.numpy(), sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        theirs = torch.stack(model(**inputs, output_hidden_states=True).hidden_states)
    ours = load_upstream(str(converted))
    found = ours.extract(wave[None], torch.tensor([12_000])).layers
    # the extractor adds 1e-7 to the variance, the published training code 1e-5: 5e-4 of this quiet
    # wave's 0.01
    torch.testing.assert_close(theirs, found, atol=2e-3, rtol=0)
    exact = ours.model.double().hidden_states(
        inputs["input_values"].double(), torch.tensor([12_000])
    )[0]  # type: ignore[attr-defined]
    with torch.no_grad():
        theirs = model.double()(
            inputs["input_values"].double(), output_hidden_states=True
        ).hidden_states
    torch.testing.assert_close(torch.stack(list(theirs)), torch.stack(exact), atol=1e-9, rtol=0)


def test_the_card_says_where_a_model_comes_from_and_what_was_measured(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    validations = [{"step": step, "valid_offline": 6.0 - step / 100} for step in range(10, 240, 10)]
    validations[-1]["valid_abx_within_0"] = 7.5  # abx_tokens was set when the run went on
    run = write_run(tmp_path / "toy", step=230, corpus_digest="c0ffee", validations=validations)
    mark = load_upstream(str(run)).fingerprint
    for name, fingerprint, value in (("toy", mark, 12.3), ("stranger", "0" * 16, 45.6)):
        results.save(result(name, fingerprint, value), [], tmp_path / "results")
    to_huggingface(run, tmp_path / "hf", tmp_path / "results")
    card = (tmp_path / "hf" / "README.md").read_text()
    for text in (
        "| updates | 230 |",
        "c0ffee",
        mark,
        "valid_offline",
        "| 230 | 3.7 | 7.5 |",
        '"clusters": 8',
        "**12.3** [11.3, 14.3]",
    ):
        assert text in card, text
    assert "45.6" not in card
    assert card.count("\n| ") < 30  # ten validations, not all
    with pytest.raises(ConfigError, match="no record of this model"):
        to_huggingface(run, tmp_path / "hf2", tmp_path / "none")
    with pytest.raises(CheckpointError, match="exists already"):
        to_huggingface(run, tmp_path / "hf")
    assert not (tmp_path / "hf2").exists()


def result(name: str, fingerprint: str, value: float) -> results.Result:
    about = record(name, value=value, corpus="tones")
    return replace(about, upstream={**about.upstream, "fingerprint": fingerprint})


def toy(corpus: Corpus, init: Path, *keys: str) -> PretrainConfig:
    return toy_config(f"data.corpus={corpus.root}", f"init={init}", *keys)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    state = toy_model(seed=7).state_dict()
    state[TEACHER + "norm.bias"] += 1  # a teacher that is not the student
    return write_run(tmp_path / "source", model=state)


def test_names_stay_text_in_the_model_card(source: Path, tmp_path: Path) -> None:
    out = tmp_path / '<b>|"x`'
    mark = to_huggingface(source, out)
    results.save(result("<script>\n|y", mark, 12.3), [], tmp_path / "results")
    to_huggingface(source, tmp_path / "hf", tmp_path / "results")
    own = (out / "README.md").read_text()
    assert '# &lt;b&gt;\\|"x\\`\n' in own
    assert 'AutoModel.from_pretrained("<b>|\\"x`")' in own  # in a code block, as a string of Python
    assert "| 1 | &lt;script&gt; \\|y |" in (tmp_path / "hf" / "README.md").read_text()


def test_pretraining_starts_from_the_weights_of_a_run(
    corpus: Corpus, source: Path, tmp_path: Path
) -> None:
    run = open_pretraining(toy(corpus, source, "fit.steps=2"))
    assert_equal(run.model.state_dict(), checkpoint.load(source / "checkpoint.pt")["model"])
    assert run.run(tmp_path / "run").finished
    assert not torch.equal(encoder_of(tmp_path / "run")["mask_emb"], encoder_of(source)["mask_emb"])


def test_a_missing_weight_of_the_encoder_is_not_newly_initialized(
    corpus: Corpus, source: Path, tmp_path: Path
) -> None:
    stored = checkpoint.load(source / "checkpoint.pt")
    stored["model"] = {k: v for k, v in stored["model"].items() if ".layers.1.fc1." not in k}
    checkpoint.save({k: v for k, v in stored.items() if k != "format"}, tmp_path / "lost.pt")
    says = r"2 weights of the encoder are missing .*\(encoder\.layers\.1\.fc1\.bias, .*weight\)"
    with pytest.raises(CheckpointError, match=says):
        open_pretraining(toy(corpus, tmp_path / "lost.pt"))


def test_new_heads_and_a_missing_teacher_are_said(
    corpus: Corpus, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    to_s3prl(source, tmp_path / "encoder.pt")
    with caplog.at_level(logging.INFO):
        model = open_pretraining(toy(corpus, tmp_path / "encoder.pt")).model
    own = model.state_dict()
    assert_equal(
        {n: t for n, t in own.items() if not n.startswith("extractors.")}, encoder_of(source)
    )
    assert torch.equal(own[TEACHER + "norm.bias"], own["encoder.norm.bias"])
    assert "no teacher in it" in caplog.text
    assert "extractors.offline.head is newly initialized (not in it)" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        config = toy(corpus, source, "targets.offline.clusters=5", "targets.online.weight=0")
        model = open_pretraining(config).model
    assert "extractors.offline.head is newly initialized (8 classes there, 5 here)" in caplog.text
    assert "extractors.online.teacher is not loaded" in caplog.text


def test_another_architecture_to_start_from_is_refused_by_key(
    corpus: Corpus, source: Path, converted: Path
) -> None:
    keys = ("encoder.layers=1", "encoder.ffn=32", "targets.online.top_k=1", "encoder.dropout=0")
    with pytest.raises(
        ConfigError, match=r"encoder.layers=1, expected 2; encoder.ffn=32, expected 64"
    ):
        open_pretraining(toy(corpus, source, *keys))
    with pytest.raises(ConfigError, match="frontend.normalize=False, expected True"):
        open_pretraining(toy(corpus, source, "frontend.normalize=false"))
    with pytest.raises(
        CheckpointError, match="no such checkpoint; convert the checkpoint of another"
    ):
        open_pretraining(toy(corpus, source / "none"))


def test_the_commands_convert_and_export(
    official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: object) -> tuple[int, str]:
        code = call(*arguments)
        said = capsys.readouterr()
        return code, said.out + said.err

    code, said = run("convert", official, "--out", tmp_path / "run")
    assert code == 0
    assert (
        "fairseq multi2vec, 4 layers of 48, 25 classes; encoder, teacher, offline head, online head"
        in said
    )
    code, said = run("export", tmp_path / "run", "--to", "s3prl", "--out", tmp_path / "a.pt")
    assert code == 0
    assert load_upstream(str(tmp_path / "a.pt")).fingerprint in said
    code, said = run(
        "export",
        tmp_path / "run",
        "--to",
        "s3prl",
        "--out",
        tmp_path / "b.pt",
        "--results",
        "results",
    )
    assert (code, "only --to hf writes" in said) == (2, True)
    code, said = run(
        "export", tmp_path / "run", "--to", "hf", "--half", "--out", tmp_path / "folder"
    )
    assert (code, "which only --to s3prl writes" in said) == (2, True)
    half = tmp_path / "a.safetensors"
    code, said = run("export", tmp_path / "run", "--to", "s3prl", "--half", "--out", half)
    assert code == 0, said
    assert half.stat().st_size < 0.6 * (tmp_path / "a.pt").stat().st_size
    code, said = run("convert", "facebook/hubert", "--out", tmp_path / "x")
    assert (code, "written hf:<id>" in said) == (2, True)
