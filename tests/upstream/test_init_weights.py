"""Pretraining that begins with the weights of another run."""

import shutil
from pathlib import Path

import pytest

from builders import TOY, identical, toy_config, weights_of, write_run
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.errors import CheckpointError
from mt4ssl_bench.upstream.model import MT4SSL
from mt4ssl_bench.upstream.pretrain import open_pretraining, pretrain


def begun(corpus: Corpus, run: Path, *keys: str) -> MT4SSL:
    """Return the model before its first update."""
    return open_pretraining(toy_config(f"data.corpus={corpus.root}", f"init={run}", *keys)).model


def test_a_run_goes_on_after_its_first_weights_are_gone(corpus: Corpus, tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", seed=5)
    keys = [f"data.corpus={corpus.root}", f"init={first}", "fit.save_every=1"]
    pretrain(str(TOY), *keys, "fit.steps=2", out=tmp_path / "run")
    shutil.rmtree(first)
    report = pretrain(str(TOY), *keys, "fit.steps=2", out=tmp_path / "run")
    assert report.finished
    with pytest.raises(CheckpointError, match="first"):
        pretrain(str(TOY), *keys, "fit.steps=2", out=tmp_path / "other")


@pytest.mark.parametrize("key", ["encoder.dropout=0.3", "encoder.layer_drop=0.5", "fit.seed=9"])
def test_what_no_weight_depends_on_may_differ(corpus: Corpus, tmp_path: Path, key: str) -> None:
    run = write_run(tmp_path / "run", seed=5)
    assert identical(dict(begun(corpus, run, key).state_dict()), weights_of(run))


def test_a_head_of_another_size_is_new_and_all_else_is_loaded(
    corpus: Corpus, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", seed=5)
    stored = weights_of(run)
    loaded = begun(corpus, run, "targets.offline.clusters=5").state_dict()
    other = {name for name, tensor in loaded.items() if not identical(tensor, stored[name])}
    assert other == {"extractors.offline.head.weight", "extractors.offline.head.bias"}
    assert loaded["extractors.offline.head.weight"].shape[0] == 5


def test_a_damaged_source_is_named(corpus: Corpus, tmp_path: Path) -> None:
    file = write_run(tmp_path / "run") / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"init .*checkpoint\.pt: .*damaged"):
        begun(corpus, file)
