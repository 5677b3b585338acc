"""Fingerprints, key by key: a key either moves no feature, or it changes the fingerprint."""

import json
import os
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from builders import TOY, toy_config, toy_model, waves, write_run
from mt4ssl_bench import checkpoint
from mt4ssl_bench.config import to_dict
from mt4ssl_bench.encoders.identity import describe, imported
from mt4ssl_bench.encoders.kinds.file import FileUpstream
from mt4ssl_bench.encoders.load import load_upstream
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import BenchError
from mt4ssl_bench.upstream.checkpoints.convert import convert
from mt4ssl_bench.upstream.checkpoints.export import to_s3prl
from mt4ssl_bench.upstream.config import PretrainConfig

MOVES = {  # key of the pretraining config -> another value, under which features are others
    "frontend.channels": 32, "frontend.normalize": False, "encoder.layers": 3, "encoder.dim": 64, "encoder.ffn": 32,
    "encoder.heads": 4, "encoder.pos_depth": 1, "encoder.pos_kernel": 9, "encoder.pos_groups": 8,
    "frontend.mels": 20, "frontend.stack": 2,
}  # fmt: skip
STAYS = {  # key -> another value, under which features are the same bits
    "frontend.warp": 0.1, "targets.online.from_update": 2, "fit.track": "tensorboard",
    "abx_tokens": 300, "about": "other", "init": "runs/other", "encoder.dropout": 0.3, "encoder.attention_dropout": 0.3,
    "encoder.activation_dropout": 0.3, "encoder.layer_drop": 0.5, "masking.prob": 0.2, "masking.length": 3,
    "masking.min_masks": 2, "masking.equalize": False, "masking.clones": 1, "targets.offline.weight": 0.5,
    "targets.offline.clusters": 16, "targets.offline.features": "fbank", "targets.offline.layer": 0,
    "targets.offline.normalize": "utterance", "targets.offline.max_frames": 10, "targets.offline.labels": "labels",
    "targets.online.weight": 0.0, "targets.online.top_k": 1, "targets.online.ema_start": 0.9,
    "targets.online.ema_end": 0.99, "targets.online.ema_steps": 2, "data.corpus": ["corpora/x"], "data.train": "a",
    "data.valid": "b", "data.min_seconds": 1.0, "data.max_seconds": 9.0, "data.batch_seconds": 9.0, "data.workers": 3,
    "data.max_unreadable": 0.5, "data.cache_hours": 0.0, "optim.lr": 0.1, "optim.betas": [0.5, 0.5], "optim.eps": 0.1,
    "optim.weight_decay": 0.5, "optim.schedule": "constant", "optim.phases": [0.5, 0.25, 0.25], "optim.init_scale": 0.5,
    "optim.final_scale": 0.5, "optim.clip_norm": 1.0, "fit.steps": 99, "fit.seed": 7, "fit.accumulate": 3,
    "fit.log_every": 5, "fit.validate_every": 5, "fit.save_every": 5, "fit.autocast": "bf16", "fit.compile": True,
    "fit.checkpointing": True, "collapse_step": 3, "min_target_var": 0.5, "min_pred_var": 0.5,
}  # fmt: skip


def leaves(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{above}{key}.")
        else:
            yield above + key, value


def changed(values: dict[str, Any], key: str, value: object) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(values))
    *path, last = key.split(".")
    place = copy
    for part in path:
        place = place[part]
    place[last] = value
    return copy


@pytest.fixture(scope="module")
def toy() -> tuple[dict[str, Any], dict[str, Tensor]]:
    return to_dict(toy_config()), toy_model().state_dict()


def test_every_key_of_the_pretraining_config_is_known_here() -> None:
    keys = {key for key, _ in leaves(to_dict(PretrainConfig()))}
    assert keys == MOVES.keys() | STAYS.keys(), "say in which list a new key belongs"
    assert not MOVES.keys() & STAYS.keys()


@pytest.mark.parametrize("key", [*MOVES, *STAYS])
def test_a_key_changes_the_fingerprint_if_and_only_if_it_moves_features(
    key: str, toy: tuple[dict[str, Any], dict[str, Tensor]], tmp_path: Path
) -> None:
    config, state = toy
    base = load_upstream(str(write_run(tmp_path / "base", config=config, model=state)))
    other = changed(config, key, {**MOVES, **STAYS}[key])
    assert other != config
    student = {name: t for name, t in state.items() if not name.startswith("extractors.")}
    try:
        upstream = load_upstream(str(write_run(tmp_path / "other", config=other, model=student)))
    except BenchError:  # the weights have other shapes: they are others
        other_state = toy_model(f"{key}={MOVES[key]}").state_dict()
        upstream = load_upstream(str(write_run(tmp_path / "new", config=other, model=other_state)))
    before, after = (
        base.extract(*waves(6_000, 4_000, offset=0.05)).layers,
        upstream.extract(*waves(6_000, 4_000, offset=0.05)).layers,
    )
    assert (key in STAYS) == torch.equal(before, after)
    assert (key in STAYS) == (base.fingerprint == upstream.fingerprint)


def test_a_fingerprint_names_its_scheme_and_goes_into_file_names(
    toy: tuple[dict[str, Any], dict[str, Tensor]], tmp_path: Path
) -> None:
    config, state = toy
    mark = load_upstream(str(write_run(tmp_path / "run", config=config, model=state))).fingerprint
    scheme, _, digits = mark.partition("-")
    assert scheme == "v2"
    assert len(digits) == 16
    assert set(digits) <= set("0123456789abcdef")


def test_only_models_pretrained_here_were_determined_by_their_weights(
    toy: tuple[dict[str, Any], dict[str, Tensor]], tmp_path: Path
) -> None:
    config, state = toy
    student = {name: t for name, t in state.items() if not name.startswith("extractors.")}
    old = (checkpoint.fingerprint(student),)

    def marks(folder: Path) -> tuple[object, object]:
        upstream: Any = load_upstream(str(folder))
        return upstream.former, upstream.insufficient

    run = write_run(tmp_path / "run", config=config, model=state, corpus_digest="c", step=6)
    assert marks(run) == (old, ())
    to_s3prl(run, tmp_path / "share" / "run.pt")
    assert marks(tmp_path / "share" / "run.pt") == (old, ())
    converted = write_run(tmp_path / "conv", config=config, model=student, source={"name": "x"})
    assert marks(converted) == ((), old)
    random: Any = load_upstream(f"random:{TOY}")
    assert random.former == ()
    assert len(random.insufficient) == 1


# Hugging Face: every key of a small config


transformers = pytest.importorskip("transformers")
SIZE: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "vocab_size": 6,
}  # fmt: skip
WORDS = {"gelu": "relu", "group": "layer", "layer": "group", "sum": "mean", "float32": "float16"}


def another(value: object) -> object:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value * 2 or 1
    if isinstance(value, str):
        return WORDS.get(value, f"{value}x")
    if isinstance(value, list):
        return [another(value[0]), *value[1:]] if value else ["x"]
    return {} if value else 1


def save(folder: Path, kind: str) -> dict[str, Any]:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SIZE)
    model = getattr(transformers, f"{kind}Model")(config)
    model.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    values: dict[str, Any] = config.to_dict() | {"attn_implementation": "eager", "unknown": 1}
    return values


@pytest.mark.parametrize(
    "kind",
    [*(pytest.param(kind, marks=pytest.mark.long) for kind in ("Hubert", "Wav2Vec2")), "WavLM"],
)
def test_every_hugging_face_key_that_moves_features_changes_the_fingerprint(
    kind: str, tmp_path: Path
) -> None:
    values = save(tmp_path / "base", kind)
    base = load_upstream(f"hf:{tmp_path / 'base'}")
    before = base.extract(*waves(6_000, 4_000, offset=0.05)).layers
    moved, refused = set(), set()
    folder = shutil.copytree(tmp_path / "base", tmp_path / "other")
    files = {"config.json": values}
    extractor = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    files["preprocessor_config.json"] = extractor
    for file, settings in files.items():
        written = (folder / file).read_text(encoding="utf-8")
        for key, value in settings.items():
            new = json.loads(written) | {key: another(value)}
            (folder / file).write_text(json.dumps(new), encoding="utf-8")
            try:
                upstream = load_upstream(f"hf:{folder}")
                after = upstream.extract(*waves(6_000, 4_000, offset=0.05)).layers
            except Exception:  # noqa: BLE001 - transformers cannot build or run such a model
                refused.add(key)
                continue
            if not torch.equal(before, after):
                moved.add(key)
                assert upstream.fingerprint != base.fingerprint, key
        (folder / file).write_text(written, encoding="utf-8")
    known = {"hidden_act", "feat_extract_activation", "layer_norm_eps", "do_normalize"}
    assert moved >= known
    assert "num_attention_heads" in moved | refused  # WavLM has weights for each head
    assert len(moved) + len(refused) < len(values)
    assert load_upstream(f"hf:{folder}").fingerprint == base.fingerprint


def test_a_default_spelled_out_and_where_a_model_comes_from_leave_its_fingerprint(
    tmp_path: Path,
) -> None:
    values = save(tmp_path / "base", "Hubert")
    mark = load_upstream(f"hf:{tmp_path / 'base'}").fingerprint
    file = tmp_path / "base" / "config.json"
    assert len(values) > len(json.loads(file.read_text(encoding="utf-8")))
    del values["attn_implementation"], values["unknown"]
    where = {"_name_or_path": "me/model", "transformers_version": "4.1.0", "architectures": ["X"]}
    file.write_text(json.dumps(values | where), encoding="utf-8")
    assert load_upstream(f"hf:{tmp_path / 'base'}").fingerprint == mark


# s3prl


def test_settings_of_a_model_that_s3prl_builds_change_its_fingerprint(tmp_path: Path) -> None:
    save(tmp_path / "base", "Hubert")
    name = "hf_hubert_custom:"
    base: Any = load_upstream(f"{name}{tmp_path / 'base'}")
    assert (len(base.former), len(base.insufficient)) == (0, 1)
    copy = shutil.copytree(tmp_path / "base", tmp_path / "copy")
    assert load_upstream(f"{name}{copy}").fingerprint == base.fingerprint
    for key, value in (("num_attention_heads", 4), ("layer_norm_eps", 0.1), ("hidden_act", "relu")):
        folder = shutil.copytree(tmp_path / "base", tmp_path / key)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps(config | {key: value}), encoding="utf-8")
        other: Any = load_upstream(f"{name}{folder}")
        assert other.insufficient == base.insufficient, "scheme 1 could not tell them apart"
        assert other.fingerprint != base.fingerprint, key


def test_models_of_s3prl_without_weights_follow_the_modules_that_they_import() -> None:
    import s3prl.upstream.baseline.hubconf as hubconf

    package = Path(hubconf.__file__).parent.parent.parent
    files = imported(Path(hubconf.__file__), [package.parent], package)
    names = {file.relative_to(package).as_posix() for file in files}
    assert {"upstream/baseline/extracter.py", "upstream/interfaces.py"} <= names
    fbank: Any = load_upstream("fbank")
    assert len(fbank.former) == 1


# a class of the user's

MINE = """
import torch
from torch import nn
from helper import SCALE

class Mine:
    num_layers, dim, stride = 1, 320, 320

    def __init__(self):
        self.net = nn.Linear(1, 1)
        with torch.no_grad():
            self.net.weight.fill_(1.0); self.net.bias.zero_()

    def extract(self, waveforms, lengths):
        from pack.late import shift
        x = waveforms[:, : waveforms.shape[1] // 320 * 320].unflatten(1, (-1, 320))
        return (self.net(x[..., None])[..., 0] * SCALE + shift())[None], lengths // 320
"""
FILES = {
    "mine.py": MINE,
    "helper.py": "from deeper import SCALE\n",
    "deeper.py": "SCALE = 2.0\n",
    "pack/late.py": "from . import numbers_of\n\ndef shift():\n    return numbers_of.SHIFT\n",
    "pack/numbers_of.py": "SHIFT = 0.5\n",
    "unrelated.py": "X = 1\n",
}


def write_class(folder: Path, **changes: tuple[str, str]) -> Path:
    for name, text in FILES.items():
        stem = Path(name).stem
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text.replace(*changes.get(stem, ("", ""))), encoding="utf-8")
    return folder / "mine.py"


def mark(file: Path) -> tuple[str, Tensor]:
    upstream: Upstream = load_upstream(f"{file}:Mine")
    return upstream.fingerprint, upstream.extract(*waves(6_000, 4_000, offset=0.05)).layers


@pytest.mark.parametrize(
    ("stem", "change", "moves"),
    [
        ("mine", ("fill_(1.0)", "fill_(1.5)"), True),
        ("deeper", ("2.0", "3.0"), True),
        ("numbers_of", ("0.5", "0.7"), True),
        ("late", (".SHIFT", ".SHIFT * 2"), True),
        ("unrelated", ("1", "2"), False),
    ],
)
def test_a_class_follows_every_local_module_that_it_imports(
    stem: str,
    change: tuple[str, str],
    moves: bool,  # noqa: FBT001 - a parameter of the test
    tmp_path: Path,
) -> None:
    first, before = mark(write_class(tmp_path / "a"))
    second, after = mark(write_class(tmp_path / "b", **{stem: change}))
    assert torch.equal(before, after) is not moves, "modules of one name are not confused"
    assert (first == second) is not moves
    assert mark(write_class(tmp_path / "c" / "copy"))[0] == first
    again, same = mark(write_class(tmp_path / "a", **{stem: change}))  # changed in place, just now
    assert torch.equal(same, after)
    assert again == second


def test_a_class_has_one_fingerprint_in_every_process(tmp_path: Path) -> None:
    file = write_class(tmp_path / "a")
    here = mark(file)[0]
    say = f"from mt4ssl_bench import load_upstream; print(load_upstream('{file}:Mine').fingerprint)"
    for seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", say],
            env=os.environ | {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
            cwd=tmp_path, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert there.stdout.split()[-1] == here


def test_a_class_is_known_by_what_its_object_holds_and_not_by_paths_and_devices() -> None:
    class Holder:
        def __init__(self, **values: object) -> None:
            vars(self).update(values)

    def text(**values: object) -> str:
        return json.dumps(describe(Holder(**values)), default=str)

    table = np.arange(4.0)
    assert text(table=table) != text(table=table + 1)
    assert text(table=torch.ones(2)) != text(table=torch.zeros(2))
    assert text(inner=Holder(scale=1)) != text(inner=Holder(scale=2))
    assert text(parts=[{"a": (1, 2)}]) != text(parts=[{"a": (1, 3)}])
    assert text(net=torch.nn.LayerNorm(3, eps=1e-5)) != text(net=torch.nn.LayerNorm(3, eps=1e-3))
    assert text(device="cpu", file=Path("/a"), where="/a/b") == text(
        device="cuda:0", file=Path("/b"), where="/c/d"
    )


class Slots:
    __slots__ = ("scale",)

    def __init__(self, scale: object) -> None:
        self.scale = scale


class Wrapper:
    def __init__(self, inner: object) -> None:
        self.inner = inner


def net(value: object) -> torch.nn.Linear:
    made = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.constant_(made.weight, float(str(value)))
    return made


def unregistered(value: object) -> torch.nn.Module:
    outer = torch.nn.Identity()
    outer.parts = [net(value)]  # type: ignore[assignment] # no ModuleList, as is easily written
    return outer


class SlottedNet(torch.nn.Linear):
    __slots__ = ("gain",)  # beside the weights

    def __init__(self, value: object) -> None:
        super().__init__(2, 1, bias=False)
        torch.nn.init.constant_(self.weight, float(str(value)))
        self.gain = 1


def enclosing(value: object) -> object:
    return lambda x: x * value


HOLDINGS: dict[str, tuple[Callable[[Any], object], int]] = {  # what holds a number -> its weights
    "attribute": (net, 2), "list": (lambda v: [net(v)], 2), "mapping": (lambda v: {"a": (net(v),)}, 2),
    "object": (lambda v: Wrapper([Wrapper(net(v))]), 2), "slots of nets": (lambda v: Slots(net(v)), 2),
    "unregistered": (unregistered, 2), "slotted net": (lambda v: [SlottedNet(v)], 2),
    "places alike": (lambda v: {"a.b": net(v), "a": {"b": net(1)}}, 4), "method": (lambda v: net(v).forward, 2),
    "enclosed net": (lambda v: enclosing(net(v)), 2), "partial": (lambda v: partial(print, net(v)), 2),
    "slots": (Slots, 0), "bytes": (lambda v: {"onnx": bytes([v])}, 0), "range": (range, 0),
    "deque": (lambda v: deque([v]), 0), "complex": (lambda v: complex(v, 1), 0), "enclosed": (enclosing, 0),
    "namespace": (lambda v: SimpleNamespace(nets=[net(v)]), 2),
}  # fmt: skip


@pytest.mark.parametrize("what", HOLDINGS)
def test_a_class_is_known_by_all_weights_and_values_that_its_object_holds(what: str) -> None:
    def build(value: int) -> FileUpstream:
        return FileUpstream(Wrapper(hold(value)), "mine", {"mine.py": "0"}, b"")

    hold, weights = HOLDINGS[what]
    one, same, other = build(1), build(1), build(2)
    assert one.fingerprint == same.fingerprint
    assert one.fingerprint != other.fingerprint
    assert one.parameters == weights
    assert not any(module.training for module in one.modules.modules())
    known = what == "attribute"  # in earlier revisions, too
    assert one.former == (same.former if known else ())
    assert len(one.insufficient) == (0 if known else 2), "old results of it are computed again"
    assert one.insufficient == other.insufficient or known


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_scripts_and_traces_are_known_by_their_weights_as_before() -> None:
    """Their attributes hold more of torch's, on which no fingerprint depends."""
    module = net(1)
    for script in (torch.jit.script(module), torch.jit.trace(module, torch.ones(1, 2))):  # type: ignore[no-untyped-call]
        upstream = FileUpstream(Wrapper(script), "mine", {"mine.py": "0"}, b"")
        assert (len(upstream.former), upstream.insufficient) == (1, ())
        assert upstream.parameters == 2


def test_a_compiled_module_has_one_fingerprint() -> None:
    """Torch gives each an attribute with its address."""
    made = [FileUpstream(Wrapper(torch.compile(net(1))), "mine", {}, b"") for _ in range(2)]
    assert made[0].fingerprint == made[1].fingerprint


def test_what_python_cannot_look_into_is_named(caplog: pytest.LogCaptureFixture) -> None:
    class Marked(Wrapper):
        fingerprint = "vocabulary of May"

    opaque = tokenizer()
    FileUpstream(Wrapper({"tokens": opaque}), "mine", {}, b"")
    assert "does not cover what 'inner.tokens' holds; give the class" in caplog.text
    caplog.clear()
    FileUpstream(Marked(opaque), "mine", {}, b"")
    FileUpstream(Wrapper([1, "text", np.float32(2), torch.ones(1), None, print]), "mine", {}, b"")
    assert not caplog.text


def tokenizer() -> object:
    """Return an object of a compiled extension."""
    tokenizers = pytest.importorskip("tokenizers")
    return tokenizers.Tokenizer(tokenizers.models.BPE())


def test_a_class_in_one_file_keeps_its_old_results_and_one_with_modules_does_not(
    tmp_path: Path,
) -> None:
    several: Any = load_upstream(f"{write_class(tmp_path / 'a')}:Mine")
    assert (len(several.former), len(several.insufficient)) == (0, 1)
    single = tmp_path / "single.py"
    code = MINE.replace("from helper import SCALE", "SCALE = 2.0")
    single.write_text(
        code.replace("from pack.late import shift", "shift = lambda: 0.5"), encoding="utf-8"
    )
    one: Any = load_upstream(f"{single}:Mine")
    assert (len(one.former), len(one.insufficient)) == (1, 0)


def test_converted_models_that_differ_in_one_setting_are_two(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.Data2VecAudioConfig(**SIZE | {"num_conv_pos_embeddings": 2})
    transformers.Data2VecAudioModel(config).save_pretrained(tmp_path / "d")
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "d")
    a = convert(str(tmp_path / "d"), tmp_path / "a")
    b = convert(str(tmp_path / "d"), tmp_path / "b", ["frontend.normalize=false"])
    assert a.fingerprint != b.fingerprint
    for made, folder in ((a, "a"), (b, "b")):
        assert load_upstream(str(tmp_path / folder)).fingerprint == made.fingerprint
