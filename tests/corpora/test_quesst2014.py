"""QUESST 2014 in miniature: its key files, its ground truth, and what is not as published."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from builders import write_noise
from mt4ssl_bench.corpora.prepare_source import Request, prepare_source
from mt4ssl_bench.corpora.source import SOURCES
from mt4ssl_bench.corpora.sources.quesst2014 import SOURCE, Quesst2014
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.downstream.plan import plan
from mt4ssl_bench.errors import CorpusError

LANGUAGES = {1: "nnenglish", 2: "nnenglish", 3: "basque", 4: "nnenglish"}
RTTM = """\
;; type document channel start duration query subtype speaker confidence
SPEAKER quesst14_00001 1 0.00 0.10 <NA> <NA> A <NA>
LEXEME quesst14_00001 1 0.00 0.10 quesst14_{part}_0001 lex <NA> 0.5
LEXEME quesst14_00001 1 0.05 0.10 quesst14_{part}_0001 lex <NA> 0.5
LEXEME quesst14_00004 1 0.00 0.10 quesst14_{part}_0001 lex <NA> 0.5
LEXEME quesst14_00002 1 0.00 0.10 quesst14_{part}_0002 lex <NA> 0.5
LEXEME quesst14_00003 1 0.00 0.10 quesst14_{part}_0003 lex <NA> 0.5
"""


def quesst(root: Path) -> Path:
    """Write four documents, and four dev and eval queries, as the archive has them."""
    for part, folder, name in (
        ("utterances", "Audio", "quesst14_{:05}"),
        ("dev", "dev_queries", "quesst14_dev_{:04}"),
        ("eval", "eval_queries", "quesst14_eval_{:04}"),
    ):
        lines = []
        for number, language in LANGUAGES.items():
            path = f"{folder}/{name.format(number)}.wav"
            write_noise(root / path, rate=8_000)
            lines.append(f"quesst14Database/{path} {language}\n")
        key = root / "scoring" / f"language_key_{part}.lst"
        key.parent.mkdir(exist_ok=True)
        key.write_text("".join(lines))
        if part != "utterances":
            truth = root / "scoring" / f"groundtruth_quesst14_{part}" / f"quesst14_{part}.rttm"
            truth.parent.mkdir()
            truth.write_text(RTTM.format(part=part))
    return root


def prepared(root: Path, out: Path, spoken: str = "nnenglish") -> Corpus:
    options = Quesst2014(audio=out / "audio", spoken=spoken)
    return prepare_source(SOURCE, options, out, Request(roots={"": root})).corpus


def test_documents_queries_and_matches_of_non_native_english(tmp_path: Path) -> None:
    assert SOURCES.get("quesst2014") is SOURCE
    corpus = prepared(quesst(tmp_path / "in" / "quesst14Database").parent, tmp_path / "out")
    ids = {split: [cut.id for cut in corpus.cuts(split)] for split in corpus.info.splits}
    assert ids == {
        "documents": ["quesst14_00001", "quesst14_00002", "quesst14_00004"],
        "valid": ["quesst14_dev_0001", "quesst14_dev_0002", "quesst14_dev_0004"],
        "test": ["quesst14_eval_0001", "quesst14_eval_0002", "quesst14_eval_0004"],
    }
    pairs = [(1, 1), (1, 4), (2, 2)]  # query, document: a document that has it twice counts once
    assert corpus.list("matches") == [
        {"query_id": f"quesst14_{part}_{query:04}", "document_id": f"quesst14_{document:05}"}
        for part in ("dev", "eval")
        for query, document in pairs
    ]
    assert corpus.info.notes["language"] == "nnenglish"
    assert corpus.info.languages == ["en"]
    assert plan("QbE", corpus).recipe == "query"


def test_another_language_has_its_own_files_and_an_unknown_one_is_named(tmp_path: Path) -> None:
    root = quesst(tmp_path / "in")
    corpus = prepared(root, tmp_path / "out", "basque")
    assert [cut.id for cut in corpus.cuts("documents")] == ["quesst14_00003"]
    assert len(corpus.list("matches")) == 2
    with pytest.raises(CorpusError, match="of language 'english'; it has basque, nnenglish"):
        prepared(root, tmp_path / "other", "english")


def remove(file: Path) -> None:
    file.unlink()


def spoil(file: Path) -> None:
    file.write_text(file.read_text().replace("LEXEME quesst14_00004 1", "LEXEME document4 1"))


def empty(file: Path) -> None:
    file.write_text(file.read_text().replace("quesst14_", "quesst15_").replace("LEXEME", ";;"))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("scoring/language_key_eval.lst", remove, "language_key_eval.lst: missing; is this half"),
        ("scoring/language_key_utterances.lst", remove, "not QUESST 2014; expected scoring/lang"),
        ("scoring/groundtruth_quesst14_dev/quesst14_dev.rttm", remove, "dev.rttm: missing; is th"),
        ("scoring/groundtruth_quesst14_eval/quesst14_eval.rttm", spoil,
         "eval.rttm, line 5: 'LEXEME document4 1 0.00 0.10 quesst14_eval_0001 lex <NA> 0.5'; exp"),
        ("scoring/groundtruth_quesst14_eval/quesst14_eval.rttm", empty,
         "eval.rttm: no LEXEME line of a query and a document of 'nnenglish'"),
        ("Audio/quesst14_00002.wav", remove, "1 of its 9 audio files are missing, the first is"),
    ],
)  # fmt: skip
def test_what_is_not_as_published_is_named(
    tmp_path: Path, file: str, change: Callable[[Path], None], message: str
) -> None:
    root = quesst(tmp_path / "in")
    change(root / file)
    with pytest.raises(CorpusError, match=re.escape(message)):
        prepared(root, tmp_path / "out")
    assert not (tmp_path / "out" / "corpus.json").exists()
