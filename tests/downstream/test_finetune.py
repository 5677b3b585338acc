"""Fine-tuning: what learns and what does not, masks, resuming, and the text that comes out."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from builders import write_arpa
from mt4ssl_bench import checkpoint, results
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import text_of
from mt4ssl_bench.downstream.evaluate import evaluate
from mt4ssl_bench.downstream.plan import load_config, plan
from mt4ssl_bench.downstream.tasks.asr import ASR
from mt4ssl_bench.downstream.tasks.speaker import Speaker
from mt4ssl_bench.downstream.training import finetune_rates
from mt4ssl_bench.downstream.training.audio_batches import Audio
from mt4ssl_bench.downstream.training.finetune import Finetuning
from mt4ssl_bench.downstream.training.finetune_rates import Finetuned, train_finetuned, train_rate
from mt4ssl_bench.downstream.training.finetuned_model import TunedHead
from mt4ssl_bench.downstream.transcribe import Recognizer, named, transcribe
from mt4ssl_bench.encoders.finetuning import TuneConfig
from mt4ssl_bench.encoders.kind import rebuild, trainable
from mt4ssl_bench.encoders.load import load_upstream
from mt4ssl_bench.errors import (
    CheckpointError,
    ConfigError,
    CorpusError,
    TrainingError,
    UpstreamError,
)
from mt4ssl_bench.results.leaderboard import Leaderboard
from mt4ssl_bench.training import run_folder
from mt4ssl_bench.training.distributed import ALONE
from mt4ssl_bench.training.fit import Fit

DATA = Path(__file__).parents[1] / "fixtures"
TOY, FINETUNE = f"random:{DATA / 'toy.yaml'}", str(DATA / "toy_asr_finetune.yaml")


def waves() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(2, 8_000, generator=torch.Generator().manual_seed(0))
    return x, torch.tensor([8_000, 5_000])


def make(corpus: Corpus, folder: Path, *overrides: str) -> tuple[Finetuning, list[Any], list[Any]]:
    config = load_config(FINETUNE, overrides)
    task, train, valid = ASR(config), list(corpus.cuts("train")), list(corpus.cuts("valid"))
    task.fit_units(train)
    return Finetuning(task, load_upstream(TOY), lr=1e-2, folder=folder, world=ALONE), train, valid


def weights(run: Finetuning) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


def test_without_masks_the_copy_to_train_computes_what_the_upstream_does() -> None:
    upstream = load_upstream(TOY)
    module = trainable(upstream, TuneConfig()).eval()
    expected, found = upstream.extract(*waves()), module(*waves())
    torch.testing.assert_close(found.layers, expected.layers)
    assert found.lengths.tolist() == expected.lengths.tolist()
    assert found.layers.requires_grad


def test_gradients_reach_everything_but_the_convolutions() -> None:
    upstream = load_upstream(TOY)
    before = upstream.extract(*waves()).layers
    module = trainable(upstream, TuneConfig(layer_drop=0)).train()
    module(*waves(), np.random.default_rng(0)).layers[-1].square().sum().backward()
    without = {name.split(".")[2] for name, p in module.named_parameters() if p.grad is None}
    assert without == {"convs", "conv_norms"}
    assert module.model.mask_emb.grad.abs().sum() > 0
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert upstream.extract(*waves()).layers.equal(before), "the frozen upstream shares no weight"


def test_masks_need_a_generator_and_depend_on_it_alone() -> None:
    module = trainable(
        load_upstream(TOY), TuneConfig(activation_dropout=0, layer_drop=0, channel_length=8)
    )
    embedded = [module(*waves(), np.random.default_rng(seed)).layers[0] for seed in (1, 1, 2)]
    assert embedded[0].equal(embedded[1])
    assert not embedded[0].equal(embedded[2])
    assert not embedded[0].equal(module(*waves()).layers[0])


def test_s3prls_models_are_trained_through_their_hub(tmp_path: Path) -> None:
    from mt4ssl_bench.encoders.finetuning import TunedForeign
    from mt4ssl_bench.encoders.kinds.s3prl import S3PRLUpstream
    from mt4ssl_bench.upstream.checkpoints.checkpoint_file import KIND
    from mt4ssl_bench.upstream.expert import register

    register()
    ours = load_upstream(TOY)
    stored = {
        "kind": KIND,
        "config": ours.blueprint["config"],
        "model": trainable(ours, TuneConfig()).model.state_dict(),
    }
    stored["config"]["targets"]["offline"]["weight"] = stored["config"]["targets"]["online"][
        "weight"
    ] = 0.0
    checkpoint.save(stored, tmp_path / "checkpoint.pt")
    theirs = S3PRLUpstream(f"mt4ssl_local:{tmp_path / 'checkpoint.pt'}", "cpu")
    module = trainable(theirs, TuneConfig())
    assert isinstance(module, TunedForeign)
    features = module.eval()(*waves())
    torch.testing.assert_close(features.layers, theirs.extract(*waves()).layers)
    features.layers.sum().backward()
    assert sum(p.grad is not None for p in module.parameters()) > 20
    again = rebuild(theirs.blueprint, TuneConfig(), module.state_dict())
    torch.testing.assert_close(again.eval()(*waves()).layers, features.layers)
    with pytest.raises(UpstreamError, match="'fbank': cannot be fine-tuned, it has no weights"):
        trainable(load_upstream("fbank"), TuneConfig())
    with pytest.raises(UpstreamError, match="offers frozen features only"):
        trainable(Frozen(), TuneConfig())


class Frozen:
    name, num_layers, dim, stride, fingerprint, parameters = "mine", 1, 1, 320, "", 1

    def extract(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> Any:
        raise NotImplementedError


def test_the_head_reads_one_layer_or_all_of_them() -> None:
    features, lengths = torch.randn(3, 2, 5, 4), torch.tensor([5, 3])
    last = TunedHead(3, 4, 7, TuneConfig(), pooled=False)
    assert last.layer_weights == [0, 0, 1]
    torch.testing.assert_close(last(features, lengths)[0], last.output(features[2]))
    middle = TunedHead(3, 4, 7, TuneConfig(layer="1"), pooled=True)
    expected = torch.stack([features[1, 0].mean(0), features[1, 1, :3].mean(0)])
    torch.testing.assert_close(middle(features, lengths)[0], middle.output(expected))
    every = TunedHead(3, 4, 7, TuneConfig(layer="weighted"), pooled=False)
    torch.testing.assert_close(every(features, lengths)[0], every.output(features.mean(0)))
    assert every.layer_weights == pytest.approx([1 / 3] * 3)
    for wrong in ("3", "last", "-4", ""):
        with pytest.raises(
            ConfigError, match="tune.layer=.*expected weighted, or a number from -3 to 2"
        ):
            TunedHead(3, 4, 7, TuneConfig(layer=wrong), pooled=False)


def test_the_loss_is_ctcs_sum_over_utterances(corpus: Corpus, tmp_path: Path) -> None:
    run, train, _ = make(
        corpus, tmp_path, "tune.activation_dropout=0", "tune.time_prob=0", "tune.channel_prob=0"
    )
    data = Audio(run.task, train, "train")
    together, *alone = [
        run.loss(data.make(cuts), 0, 0) for cuts in (train[:2], train[:1], train[1:2])
    ]
    assert together.count == 2
    assert together.total.item() == pytest.approx(
        sum(part.total.item() for part in alone), rel=1e-5
    )
    assert together.total.item() > 20, "a sum, not a mean per symbol"


def test_the_encoder_rests_for_the_first_updates(corpus: Corpus, tmp_path: Path) -> None:
    run, train, valid = make(
        corpus, tmp_path, "tune.freeze_updates=100", "steps=3", "validate_every=3"
    )
    before = weights(run)
    train_rate(run, train, valid, "test")
    moved = {
        name.split(".")[0]
        for name, tensor in weights(run).items()
        if not tensor.equal(before[name])
    }
    assert moved == {"head"}


def test_an_interrupted_run_continues_bit_for_bit(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, train, valid = make(corpus, tmp_path / "whole", "steps=12", "validate_every=4")
    train_rate(whole, train, valid, "test")
    broken, _, _ = make(corpus, tmp_path / "broken", "steps=12", "validate_every=4")
    update = Fit._update

    def die(self: Any, *arguments: Any) -> Any:
        if self.state.step == 10:
            raise MemoryError
        return update(self, *arguments)

    monkeypatch.setattr(Fit, "_update", die)
    with pytest.raises(MemoryError):
        train_rate(broken, train, valid, "test")
    monkeypatch.undo()
    again, _, _ = make(corpus, tmp_path / "broken", "steps=12", "validate_every=4")
    train_rate(again, train, valid, "test")
    assert (again.best.value, again.best.step) == (whole.best.value, whole.best.step)
    for name, tensor in weights(whole).items():
        assert tensor.equal(weights(again)[name]), name


@pytest.mark.parametrize("part", ["encoder", "head"])
@pytest.mark.parametrize("clip", [0.0, 5.0])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_stops_fine_tuning_before_the_weights_move(
    corpus: Corpus, tmp_path: Path, part: str, clip: float, value: float
) -> None:
    run, train, valid = make(corpus, tmp_path, "steps=6", f"clip_norm={clip}", "tune.layer_drop=0")
    trained = run.model.encoder if part == "encoder" else run.model.head
    parameter = [p for p in trained.parameters() if p.requires_grad][-1]
    seen: list[dict[str, torch.Tensor]] = []

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        seen.append(weights(run))
        return gradient * value if len(seen) == 3 else gradient

    parameter.register_hook(spoil)
    with pytest.raises(TrainingError, match="the gradient is not finite at update 2, utterances s"):
        train_rate(run, train, valid, "test")
    assert len(seen) == 3
    for name, tensor in weights(run).items():
        assert tensor.equal(seen[-1][name]), name
    assert not (tmp_path / "model.pt").exists()


def test_logits_on_valid_that_are_not_finite_end_the_rate(corpus: Corpus, tmp_path: Path) -> None:
    run, train, valid = make(corpus, tmp_path, "steps=4", "validate_every=2")
    run.model.head.register_forward_hook(
        lambda head, _, out: out if head.training else (out[0] * math.nan, out[1])
    )
    with pytest.raises(TrainingError, match=r"lr 0.01: logits are not finite, utterances s\d-1"):
        train_rate(run, train, valid, "test")
    assert not run.best.weights


def test_memory_that_runs_out_at_one_rate_does_not_choose_among_the_others(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = Finetuning.loss

    def scarce(run: Finetuning, *arguments: Any) -> Any:
        if run.lr == 3e-3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return loss(run, *arguments)

    monkeypatch.setattr(Finetuning, "loss", scarce)
    out, keys = tmp_path / "out", ["steps=2", "validate_every=2", "sweep=1e-2,3e-3"]
    with pytest.raises(TrainingError, match=r"lr 0.003: out of device memory at update 0 .*tune"):
        train_finetuned_by(corpus, out, keys)
    monkeypatch.undo()
    assert [trial["valid"] is None for trial in train_finetuned_by(corpus, out, keys).trials] == [
        False,
        False,
    ]


def train_finetuned_by(corpus: Corpus, out: Path, keys: list[str]) -> Finetuned:
    job = plan(FINETUNE, corpus, keys)
    return train_finetuned(load_upstream(TOY), job, job.folds(), folder=out, world=ALONE)


def test_a_score_that_is_not_a_number_is_never_the_best(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([math.nan, 50.0, math.nan])
    monkeypatch.setattr(ASR, "measure", lambda *_: next(scores))
    run, train, valid = make(corpus, tmp_path, "steps=6", "validate_every=2")
    train_rate(run, train, valid, "test")
    assert (run.best.value, run.best.step) == (50.0, 4)


@pytest.mark.parametrize("step", [8, 12])
def test_a_run_folder_of_the_first_revisions_goes_on(
    corpus: Corpus, tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They kept the best model in model.pt, its score among the validations, and the checkpoint for
    ever.
    """
    monkeypatch.setattr(run_folder, "SHARE", 1e9)
    monkeypatch.setattr(finetune_rates, "discard", lambda _: None)
    keys = ["steps=12", "validate_every=4"]
    whole, train, valid = make(corpus, tmp_path / "whole", *keys)
    states: dict[int, dict[str, Any]] = {}
    save = run_folder.RunFolder.save

    def keep(self: Any, state: dict[str, Any]) -> None:
        save(self, state)
        states[state["step"]] = copy.deepcopy({**self.meta, **state})

    monkeypatch.setattr(run_folder.RunFolder, "save", keep)
    monkeypatch.setattr(run_folder.PassingFolder, "due", lambda *_, **__: True)
    train_rate(whole, train, valid, "test")
    monkeypatch.undo()
    old = tmp_path / "old"
    best = states[step].pop("best")
    for key in ("seconds", "rate"):
        del states[step][key]
    checkpoint.save(states[step], old / "checkpoint.pt")
    stored = {part: {} for part in ("encoder", "head")}
    for name, tensor in best["weights"].items():
        part, _, key = name.partition(".")
        stored[part][key] = tensor
    checkpoint.save({"kind": "task", **stored}, old / "model.pt")
    again, _, _ = make(corpus, old, *keys)
    train_rate(again, train, valid, "test")
    assert (again.best.value, again.best.step) == (whole.best.value, whole.best.step)
    for name, tensor in weights(whole).items():
        assert tensor.equal(weights(again)[name]), name


@pytest.fixture(scope="module")
def overfitted(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """A model that knows two utterances by heart."""
    folder = tmp_path_factory.mktemp("runs") / "asr-toy"
    run, train, _ = make(
        corpus,
        folder,
        *["steps=300", "validate_every=100", "tune.time_prob=0", "tune.channel_prob=0"],
    )
    train_rate(run, train[:2], train[:2], "test")
    assert run.best.value == 0
    return folder, train[:2]


def test_transcribe_prints_the_text_of_an_utterance_it_was_trained_on(
    overfitted: tuple[Path, list[Any]], corpus: Corpus, tmp_path: Path
) -> None:
    folder, cuts = overfitted
    files = [Path(cut.recording.sources[0].source) for cut in cuts]
    missing = files[0].with_name("broken.wav")
    found = list(transcribe(folder, files))
    assert found == [(file, text_of(cut)) for file, cut in zip(files, cuts, strict=True)]
    assert not missing.exists()
    (tmp_path / "broken.wav").write_bytes(b"no audio")
    assert list(transcribe(folder, [tmp_path, files[0]])) == [
        (tmp_path / "broken.wav", None),
        found[0],
    ]
    assert len(named([files[0].parent])) == 24
    with pytest.raises(CorpusError, match="no such file or folder"):
        named([tmp_path / "none"])
    with pytest.raises(ConfigError, match="--beam: no effect without --lm"):
        list(transcribe(folder, files, decode={"beam": 3}))
    with pytest.raises(CheckpointError, match="holds no model.pt"):
        list(transcribe(tmp_path, files))


def test_long_audio_is_read_in_chunks_that_fit_together(
    overfitted: tuple[Path, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mt4ssl_bench.downstream import transcribe as module

    recognizer = Recognizer(overfitted[0])
    seen: list[tuple[int, int]] = []

    def position(
        waveform: torch.Tensor,
    ) -> torch.Tensor:  # each frame is the number of its first sample
        seen.append((int(waveform[0]), len(waveform)))
        return waveform.unfold(0, 400, 320)[:, :1]

    monkeypatch.setattr(recognizer, "_read", position)
    for seconds in (10, 30, 31, 70, 300):
        seen.clear()
        samples = np.arange(seconds * 16_000, dtype=np.float32)
        frames = recognizer.logits(samples)[:, 0].tolist()
        assert frames == [float(320 * i) for i in range((len(samples) - 400) // 320 + 1)]
        assert max(length for _, length in seen) <= module.CHUNK


def test_evaluate_finetunes_keeps_modes_apart_and_repeats_nothing(
    corpus: Corpus, tmp_path: Path
) -> None:
    short = ["steps=4", "validate_every=2"]
    first = evaluate([TOY], [FINETUNE], corpus.root, out=tmp_path, device="cpu", overrides=short)
    assert not first.failures
    record = first.results[0]
    assert record.mode == "finetune"
    assert record.layer_weights == [0, 0, 1]
    assert "tune" in record.recipe
    assert "store" not in record.recipe
    assert [trial["steps"] for trial in record.sweep] in ([2], [4])
    assert (
        evaluate([TOY], [FINETUNE], corpus.root, out=tmp_path, device="cpu", overrides=short).reused
        == 1
    )
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.endswith(record.key)
    frozen = evaluate(
        [TOY], [str(DATA / "toy_asr.yaml")], corpus.root, out=tmp_path, device="cpu"
    ).results[0]
    assert frozen.mode == "frozen"
    assert not {"tune", "mode", "decode", "lexicon"} & set(frozen.recipe)
    (table,) = Leaderboard.from_folder(tmp_path).tables
    assert {column.mode for column in table.columns} == {"frozen", "finetune"}
    assert len({column.recipe for column in table.columns}) == 2
    kept = next(path for path in (tmp_path / "runs").iterdir() if path.name.endswith(frozen.key))
    cut = next(iter(corpus.cuts("test")))
    ((_, text),) = transcribe(kept, [Path(cut.recording.sources[0].source)])
    assert isinstance(text, str)
    assert (kept / "model.pt").stat().st_size < 200_000, "a frozen upstream is named, not copied"
    with pytest.raises(CheckpointError, match="its head was trained on"):
        Recognizer(kept, upstream="random:mt4ssl_tiny")


def test_a_sweep_of_rates_and_a_diverged_one(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = evaluate(
        [TOY], [FINETUNE], corpus.root, out=tmp_path, device="cpu",
        overrides=["steps=4", "validate_every=2", "sweep=[1e30,1e-2]", "clip_norm=0", "tune.phases=[0,1,0]"],
    )  # fmt: skip
    trials = outcome.results[0].sweep
    assert [(trial["lr"], trial["chosen"]) for trial in trials] == [(1e30, False), (1e-2, True)]
    assert trials[0]["valid"] is None


def test_speakers_are_learnt_from_crops_and_hold_no_text(corpus: Corpus, tmp_path: Path) -> None:
    config = load_config(
        "speaker_finetune_tiny",
        ["steps=2", "validate_every=1", "tune.channel_length=8"],
    )
    task, train = Speaker(config), list(corpus.cuts("train"))
    task.fit_units(train)
    data = Audio(Speaker(replace(config, crop_seconds=0.5)), train, "train")
    epochs = [
        {cut.id: cut.start for b in data.batches(shuffle=True)(epoch) for cut in b.cuts}
        for epoch in (0, 0, 1)
    ]
    assert epochs[0] == epochs[1] != epochs[2]
    run = Finetuning(task, load_upstream(TOY), lr=1e-3, folder=tmp_path, world=ALONE)
    train_rate(run, train, list(corpus.cuts("valid")), "test")
    assert set(run.decode(Audio(task, train, "train"))[0]) <= {"spk0", "spk1", "spk2"}
    with pytest.raises(CheckpointError, match="task 'speaker', which outputs no text"):
        Recognizer(tmp_path)


def test_the_published_settings_stand_in_the_recipes() -> None:
    config = load_config("asr_finetune")
    assert (config.steps, config.accumulate, config.sweep, config.clip_norm) == (
        20_000,
        8,
        (5e-5,),
        0,
    )
    assert config.tune.phases == (0.1, 0.4, 0.5)
    assert (config.tune.batch_seconds * 16_000, config.tune.final_scale) == (3_200_000, 0.05)


def test_a_language_model_adds_a_column_and_trains_nothing_again(
    corpus: Corpus, tmp_path: Path
) -> None:
    pytest.importorskip(
        "flashlight.lib.text", reason="flashlight-text has no wheel for this Python"
    )
    arpa = write_arpa(tmp_path / "words.arpa", ["LOW MID HIGH", "HIGH LOW MID"])
    short = ["steps=4", "validate_every=2"]
    evaluate([TOY], [FINETUNE], corpus.root, out=tmp_path, device="cpu", overrides=short)
    (folder,) = (tmp_path / "runs").iterdir()
    before = (folder / "model.pt").stat().st_mtime_ns
    with_lm = [*short, f"decode.lm={arpa}", "decode.tune=true"]
    outcome = evaluate(
        [TOY], [FINETUNE], corpus.root, out=tmp_path, device="cpu", overrides=with_lm
    )
    assert not outcome.failures
    record = outcome.results[0]
    assert list(record.metrics) == ["wer", "cer", "wer+lm", "cer+lm"]
    assert set(record.lm_weights) == {"lm_weight", "word_score"}
    assert len(record.recipe["decode"]["lm"]) == 16, "the model's digest, not its place"
    assert (folder / "model.pt").stat().st_mtime_ns == before
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [folder.name]
    rows = results.load_hypotheses(results.record_path(record, tmp_path))
    assert all(set(row["with_lm"].split()) <= {"LOW", "MID", "HIGH"} for row in rows)
    assert "asr WER+LM % ↓" in Leaderboard.from_folder(tmp_path).to_markdown()
    frozen = [f"decode.lm={arpa}", "steps=4", "validate_every=4", "sweep=[1e-2]"]
    asr = evaluate(
        [TOY],
        [str(DATA / "toy_asr.yaml")],
        corpus.root,
        out=tmp_path,
        device="cpu",
        overrides=frozen,
    )
    assert asr.results[0].lm_weights == {"lm_weight": 2.0, "word_score": -1.0}
    with pytest.raises(ConfigError, match="decode.lm=none.arpa: cannot be read"):
        plan(FINETUNE, corpus, ["decode.lm=none.arpa"])


def test_a_file_that_is_no_language_model_fails_before_any_training(
    corpus: Corpus, tmp_path: Path
) -> None:
    keys = [f"decode.lm={__file__}"]
    outcome = evaluate([TOY], [FINETUNE], corpus.root, out=tmp_path, device="cpu", overrides=keys)
    assert "not a KenLM model" in outcome.failures[0]
    assert {file.name for file in (tmp_path / "runs").rglob("*.*")} == {".lock"}, "nothing trained"
    with pytest.raises(
        ConfigError, match="'speaker' does not read it, only asr, diarization, phoneme and slots"
    ):
        plan("speaker", corpus, keys)
