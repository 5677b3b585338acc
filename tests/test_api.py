"""The Python API: importing the package stays light, and the README's examples run as they stand
there.
"""

import re
from pathlib import Path

import pytest

import mt4ssl_bench
from builders import python
from mt4ssl_bench.data.corpus import Corpus

README = Path(__file__).parent.parent / "README.md"


def examples() -> list[str]:
    section = README.read_text(encoding="utf-8").split("\n## Python\n")[1].split("\n## ")[0]
    return re.findall(r"^```python\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)


def test_the_examples_in_the_readme_run_as_they_stand(
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "corpora").mkdir()
    (tmp_path / "corpora" / "demo").symlink_to(corpus.root)
    monkeypatch.chdir(tmp_path)
    said = []
    for example in examples():
        exec(compile(example, "README.md", "exec"), {})  # noqa: S102 - our own README
        said.append(capsys.readouterr().out)
    trained, extracted, evaluated, board = said
    assert trained == "10 updates; finished: True\n"
    assert extracted == "torch.Size([5, 2, 49, 192]) tensor([49, 37])\n"
    assert [line.split()[0] for line in evaluated.splitlines()] == ["python", "fbank"]
    assert "| python |" in board
    assert "| fbank |" in board


def test_each_name_has_an_example() -> None:
    imported = {
        name
        for example in examples()
        for name in re.findall(r"from mt4ssl_bench import (\w+)", example)
    }
    assert imported == set(mt4ssl_bench.__all__)


def test_importing_the_package_imports_nothing_heavy_until_a_name_is_asked_for() -> None:
    code = (
        "import sys, mt4ssl_bench\n"
        "heavy = ('torch', 'numpy', 'lhotse', 's3prl', 'omegaconf', 'rich', 'typer')\n"
        "print([m for m in heavy if m in sys.modules], set(mt4ssl_bench.__all__) <= "
        "set(dir(mt4ssl_bench)))\nfrom mt4ssl_bench import Leaderboard\n"
        "print('torch' in sys.modules, Leaderboard.__module__)\n"
        "print(hasattr(mt4ssl_bench, 'leader_board'))\n"
    )
    assert python(code) == "[] True\nFalse mt4ssl_bench.results.leaderboard\nFalse\n"
