"""What is published: wheel and sdist hold every room and work without the checkout."""

import ast
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

from mt4ssl_bench import __version__
from mt4ssl_bench.wheels import EXTRAS, missing

ROOT = Path(__file__).parent.parent
OUTSIDE = (
    "upstream",
    "downstream",
    "recipes",
)  # beside the package in a checkout, inside it in a wheel
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = SETTINGS["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SOURCES = [p for top in ("mt4ssl_bench", *OUTSIDE) for p in sorted((ROOT / top).rglob("*.py"))]


def inside(path: Path) -> str:
    """The path in a wheel of a file or folder of the checkout."""
    relative = path.relative_to(ROOT)
    return relative.as_posix() if relative.parts[0] not in OUTSIDE else f"mt4ssl_bench/{relative}"


def test_the_list_of_packages_is_that_of_the_folders() -> None:
    folders = [
        path.parent
        for top in ("mt4ssl_bench", *OUTSIDE)
        for path in (ROOT / top).rglob("__init__.py")
    ]
    packages = SETTINGS["tool"]["setuptools"]["packages"]
    assert packages == sorted(inside(folder).replace("/", ".") for folder in folders)


def distributions(requirements: list[str]) -> set[str]:
    """The normalized names of requirements."""
    names = (re.split(r"[^\w.-]", requirement, maxsplit=1)[0] for requirement in requirements)
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names}


def test_every_library_that_is_imported_is_a_dependency() -> None:
    extras = [r for name, listed in PROJECT["optional-dependencies"].items() if name != "dev"
              for r in listed]  # fmt: skip
    declared = distributions([*PROJECT["dependencies"], *extras])
    # transformers requires it; lhotse imports it for s3:// and gs:// addresses
    declared |= {"huggingface-hub"}
    installed = packages_distributions()
    undeclared = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in {name.split(".")[0] for name in names} - {"mt4ssl_bench"}:
                if name in sys.stdlib_module_names:
                    continue
                if not distributions(installed.get(name, [name])) & declared:
                    undeclared.add(f"{path.relative_to(ROOT)}: {name}")
    assert not undeclared


def test_a_missing_extra_says_what_it_adds_and_what_to_run() -> None:
    assert set(EXTRAS) == set(PROJECT["optional-dependencies"]) - {"dev"}
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert all(f"`[{extra}]`" in page for extra in EXTRAS)
    assert missing("prepare hf", "hf-data") == (
        "prepare hf: needs the extra [hf-data], Hugging Face data sets; run: pip install "
        "'mt4ssl-bench[hf-data]'"
    )
    texts = {path: path.read_text(encoding="utf-8") for path in SOURCES}
    by_hand = [
        path.relative_to(ROOT).as_posix() for path, text in texts.items()
        if "pip install 'mt4ssl-bench[" in text
    ]  # fmt: skip
    assert not by_hand, "call missing()"


def test_the_citation_is_of_this_version_and_names_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert (citation["version"], citation["license"]) == (__version__, PROJECT["license"])
    assert PROJECT["version"] == __version__
    paper = citation["preferred-citation"]
    assert paper["title"].startswith("MT4SSL: Boosting Self-Supervised Speech")
    assert [author["family-names"] for author in paper["authors"]] == [
        "Ma", "Zheng", "Tang", "Wang", "Chen",
    ]  # fmt: skip
    assert paper["url"] == PROJECT["urls"]["Paper"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_yaml_and_runs_only_make_targets_that_exist(path: Path) -> None:
    workflow = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)  # noqa: S506 - strings
    assert {"name", "on", "permissions", "jobs"} <= set(workflow)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, flags=re.MULTILINE))
    commands = []
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step), step
            assert "@" in step.get("uses", "@"), "an action without a version"
            commands += [step["run"]] if "run" in step else []
    assert commands
    for command in commands:
        assert re.fullmatch(r"make [\w-]+", command), command
        assert command.removeprefix("make ") in targets, command


def test_the_workflows_test_every_python_that_the_package_allows() -> None:
    assert [path.stem for path in WORKFLOWS] == ["docs", "release", "tests"]
    tests = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))
    pythons = tests["jobs"]["tests"]["strategy"]["matrix"]["python"]
    named = [c.rsplit(" ", 1)[1] for c in PROJECT["classifiers"] if "Python :: 3." in c]
    assert pythons == named
    assert PROJECT["requires-python"] == f">={pythons[0]},<3.{int(pythons[-1][2:]) + 1}"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[Path]]:
    """The wheel, which is built from the sdist, the sdist, and the files that git tracks."""
    place = tmp_path_factory.mktemp("built")
    source = place / "source"  # a copy: building must not write into the checkout
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    tracked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    files = [ROOT / name for name in tracked.stdout.splitlines() if (ROOT / name).is_file()]
    for file in files:
        (source / file.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        (source / file.relative_to(ROOT)).write_bytes(file.read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", place, source],
        check=True, capture_output=True,
    )  # fmt: skip
    return next(place.glob("*.whl")), next(place.glob("*.tar.gz")), files


@pytest.mark.long
def test_a_wheel_holds_every_file_and_an_sdist_the_tests_too(
    built: tuple[Path, Path, list[Path]],
) -> None:
    wheel, sdist, files = built
    ours = {inside(f) for f in files if f.relative_to(ROOT).parts[0] in {"mt4ssl_bench", *OUTSIDE}}
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == ours
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    shipped = ("docs", "examples", "tests", "mt4ssl_bench", *OUTSIDE)
    wanted = {
        f.relative_to(ROOT).as_posix() for f in files if f.relative_to(ROOT).parts[0] in shipped
    }
    assert wanted | {"README.md", "LICENSE", "CITATION.cff", "Makefile", "hubconf.py"} <= names


@pytest.fixture(scope="module")
def installed(
    built: tuple[Path, Path, list[Path]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The programs of a fresh environment that has the wheel.

    It takes the libraries from this one; the checkout, which is installed here too, is not found
    from there, as .pth files are not read in a folder that a .pth file names.
    """
    place = tmp_path_factory.mktemp("fresh") / "venv"
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    (site,) = place.glob("lib/python*/site-packages")
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    (site / "libraries.pth").write_text("\n".join(libraries) + "\n", encoding="utf-8")
    pip = [place / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, built[0]], check=True)
    return place / "bin"


@pytest.mark.long
def test_each_module_is_imported_from_the_wheel(
    built: tuple[Path, Path, list[Path]], installed: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(built[0]) as archive:
        names = [name for name in archive.namelist() if name.endswith(".py")]
    modules = [name.removesuffix(".py").replace("/", ".") for name in names]
    wanted = sorted(m.removesuffix(".__init__") for m in modules if not m.endswith("__main__"))
    script = f"""
import importlib, sys
for name in {wanted!r}:
    module = importlib.import_module(name)
    assert module.__file__.startswith({str(installed.parent)!r}), module.__file__
"""
    subprocess.run([installed / "python", "-c", script], check=True, cwd=tmp_path)


@pytest.mark.long
def test_the_demo_runs_from_the_wheel_without_the_checkout(installed: Path, tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader", reason="the extra [demo] is not installed")

    def run(*words: str) -> str:
        command = [installed / "mt4ssl-bench", *words]
        return subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    assert run("--version") == f"{__version__}\n"
    run("prepare", "demo", "--out", "corpus")
    run("pretrain", "mt4ssl_demo", "data.corpus=corpus", "fit.steps=4", "--out", "runs/first")
    evaluated = run(
        "evaluate", "runs/first", "fbank", "--task", "phoneme", "--task", "speaker", "steps=4",
        "--corpus", "corpus", "--out", "results",
    )  # fmt: skip
    assert "synthetic speech: a check of the code, not a speech benchmark" in evaluated
    table = run("leaderboard", "results", "--format", "markdown")
    assert "| first |" in table
    assert "| fbank |" in table
    assert run("runs", "runs").split("\n")[2].split()[:2] == ["first", "finished"]
