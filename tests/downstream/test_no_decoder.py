"""Where flashlight-text cannot be imported, a recipe with a language model is refused before any
work.
"""

import sys
from pathlib import Path

import pytest

from mt4ssl_bench.cli.app import main
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.downstream.config import DecodeConfig
from mt4ssl_bench.downstream.heads import flashlight
from mt4ssl_bench.errors import ConfigError

DATA = Path(__file__).parents[1] / "fixtures"


@pytest.mark.parametrize(
    ("python", "message"),
    [
        ((3, 11, 0), r"needs the extra \[lm\], .* \(.*\); run: pip install 'mt4ssl-bench\[lm\]'"),
        ((3, 12, 9), r"needs the extra \[lm\], .* \(.*\); run: pip install 'mt4ssl-bench\[lm\]'"),
        ((3, 13, 0), "no wheel for Python 3.13; expected Python 3.11 or 3.12; make an environment"),
        ((3, 14, 1), "no wheel for Python 3.14; expected Python 3.11 or 3.12"),
    ],
)
def test_the_way_out_depends_on_the_python(
    monkeypatch: pytest.MonkeyPatch, python: tuple[int, int, int], message: str
) -> None:
    monkeypatch.setitem(sys.modules, "flashlight.lib.text", None)
    monkeypatch.setattr(flashlight.sys, "version_info", python)
    with pytest.raises(ConfigError, match=message):
        flashlight.check_decoder(DecodeConfig(lm="any.arpa"))
    flashlight.check_decoder(DecodeConfig())  # nothing is asked for without a language model


def test_evaluate_refuses_it_before_any_feature(
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "flashlight.lib.text", None)
    (tmp_path / "words.arpa").write_text("\\data\\\n")
    out = tmp_path / "results"
    arguments = ["evaluate", "fbank", f"decode.lm={tmp_path / 'words.arpa'}", "--task", "asr"]
    monkeypatch.setattr(
        sys, "argv", ["x", *arguments, "--corpus", str(corpus.root), "--out", str(out)]
    )
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "decode.lm: needs " in capsys.readouterr().err
    assert not out.exists()
