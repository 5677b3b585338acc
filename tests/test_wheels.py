"""torchaudio of another build than torch: one line, wherever it is needed."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from builders import python

# what torchaudio's import ends with where its library was built for another torch
STUB = """
raise OSError(
    "/x/torchaudio/lib/libtorchaudio.so: undefined symbol: _ZNK3c105Error4whatEv"
)
"""


def _transformers_imports_torchaudio() -> bool:
    say = "import sys, transformers.audio_utils; print('torchaudio' in sys.modules)"
    return python(say).split()[-1] == "True"


@pytest.mark.parametrize("what", ["hf:model", "fbank", "audio", "mfcc"])
def test_one_line_says_what_fits_and_what_to_run(what: str, tmp_path: Path) -> None:
    if what == "hf:model" and not _transformers_imports_torchaudio():
        pytest.skip("this version of transformers does not import torchaudio")
    (tmp_path / "stub" / "torchaudio").mkdir(parents=True)
    (tmp_path / "stub" / "torchaudio" / "__init__.py").write_text(STUB, encoding="utf-8")
    soundfile.write(tmp_path / "a.wav", np.zeros(8_000), 8_000)
    calls = {
        "audio": "from pathlib import Path; from mt4ssl_bench.data import audio; "
        f"audio.read_file(Path({str(tmp_path / 'a.wav')!r}))",
        "mfcc": "import numpy as n; from mt4ssl_bench.features.mfcc import mfcc; "
        "mfcc(n.zeros(9000, 'f'))",
    }
    body = calls.get(what, f"from mt4ssl_bench import load_upstream; load_upstream('{what}')")
    script = f"""
from mt4ssl_bench.errors import BenchError
try:
    {body}
except BenchError as error:
    print(error)
"""
    stub = {"PYTHONPATH": str(tmp_path / "stub"), "OMP_NUM_THREADS": "1"}
    (line,) = python(script, **stub).splitlines()
    assert "does not load beside torch 2." in line
    assert "undefined symbol" in line
    assert "run: pip install --force-reinstall --no-deps torchaudio" in line
