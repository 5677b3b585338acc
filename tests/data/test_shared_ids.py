"""An utterance id belongs to one of the corpora that are pretrained on together."""

from pathlib import Path

import pytest

from builders import TOY, call, refused, write_noise
from mt4ssl_bench.corpora.prepare_source import prepare_path
from mt4ssl_bench.corpora.shard import shard_corpus
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.shared_ids import refuse_shared_ids
from mt4ssl_bench.errors import CorpusError

SPLITS = ("train", "valid")


def prepared(folder: Path, **splits: str) -> Corpus:
    """Return a corpus of noise; `splits` are utterances by split: train="u0 u1"."""
    rows = ["id\tpath\tsplit"]
    for split, names in splits.items():
        for name in names.split():
            write_noise(folder / f"{folder.name}-{name}.wav", 0.7)
            rows.append(f"{name}\t{folder.name}-{name}.wav\t{split}")
    (folder / "m.tsv").write_text("\n".join(rows) + "\n")
    return prepare_path("table", folder / "m.tsv", folder / "corpus")


@pytest.fixture
def one(tmp_path: Path) -> Corpus:
    return prepared(tmp_path / "one", train="u0 u1 u2", valid="v0")


@pytest.mark.parametrize("sharded", [False, True])
def test_an_id_in_two_corpora_is_named_with_both(
    one: Corpus, tmp_path: Path, *, sharded: bool
) -> None:
    pair = [one, prepared(tmp_path / "two", train="w0 u1 u2", valid="w1")]
    if sharded:
        pair = [shard_corpus(each, tmp_path / f"{each.root.parent.name}-shards") for each in pair]
    with pytest.raises(CorpusError) as error:
        refuse_shared_ids(pair, SPLITS)
    assert "2 utterance ids are in several corpora, for example 'u" in str(error.value)
    assert f"in {pair[0].where} and {pair[1].where}; expected" in str(error.value)


def test_an_id_in_training_of_one_and_validation_of_another_is_named(
    one: Corpus, tmp_path: Path
) -> None:
    two = prepared(tmp_path / "two", train="w0", valid="u0")
    with pytest.raises(CorpusError, match="1 utterance ids are in several corpora.*'u0'"):
        refuse_shared_ids([one, two], SPLITS)


def test_other_ids_the_same_corpus_and_the_same_split_twice_are_fine(
    one: Corpus, tmp_path: Path
) -> None:
    two = prepared(tmp_path / "two", train="w0 w1", valid="w2", test="u0")
    refuse_shared_ids([one, two], SPLITS)  # u0 is in a split that is not read
    refuse_shared_ids([one, two], ("train", "train"))
    refuse_shared_ids([one, one], SPLITS)
    refuse_shared_ids([one, shard_corpus(one, tmp_path / "shards")], SPLITS)


def test_pretrain_and_kmeans_refuse_it_before_they_compute(
    one: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = prepared(tmp_path / "two", train="w0 u1", valid="w1")
    for command in ("pretrain", "kmeans"):
        out = tmp_path / command
        line = refused(capsys, command, TOY, f"data.corpus={one.root},{two.root}", "--out", out)
        assert "'u1' in" in line
        assert "prepare all audio as one corpus" in line
        assert not out.exists()


def test_without_labels_an_id_may_be_in_two_corpora(one: Corpus, tmp_path: Path) -> None:
    two = prepared(tmp_path / "two", train="u0 u1", valid="v0")
    keys = [f"data.corpus={one.root},{two.root}", "targets.offline.weight=0", "fit.steps=1"]
    assert call("pretrain", TOY, *keys, "--out", tmp_path / "run") == 0


def test_corpora_of_different_ids_train_together(one: Corpus, tmp_path: Path) -> None:
    two = prepared(tmp_path / "two", train="w0 w1", valid="w2")
    corpora = f"data.corpus={one.root},{two.root}"
    assert call("pretrain", TOY, corpora, "fit.steps=1", "--out", tmp_path / "run") == 0
