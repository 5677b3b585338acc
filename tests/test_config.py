"""Recipes, their parts, base chains and overrides; errors name file, part, key and expectation."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from mt4ssl_bench.config import from_dict, load, read_recipe, recipe_names, to_dict
from mt4ssl_bench.downstream.config import BaseConfig, TaskConfig
from mt4ssl_bench.downstream.plan import load_config
from mt4ssl_bench.downstream.tasks.asr import ASRConfig
from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.upstream.config import PretrainConfig


@dataclass(frozen=True, kw_only=True)
class Rates:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)


@dataclass(frozen=True, kw_only=True)
class Schema:
    steps: int = 5
    names: tuple[str, ...] = ()
    rates: tuple[float, ...] = (1.0,)
    mode: Literal["keep", "drop"] = "keep"
    labels: str | None = None
    on: bool = True
    optim: Rates = field(default_factory=Rates)


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_without_recipe_and_overrides_the_defaults_stand() -> None:
    assert load(Schema) == Schema()


def test_a_recipe_changes_only_the_keys_that_it_names(tmp_path: Path) -> None:
    recipe = write(tmp_path / "r.yaml", "steps: 7\noptim: {lr: 2}\n")
    assert load(Schema, recipe) == Schema(steps=7, optim=Rates(lr=2.0))


def test_an_empty_recipe_is_the_defaults(tmp_path: Path) -> None:
    assert load(Schema, write(tmp_path / "r.yaml", "")) == Schema()


def test_a_base_chain_is_merged_nearest_last(tmp_path: Path) -> None:
    root = write(
        tmp_path / "root.yaml", "steps: 1\nmode: drop\noptim: {lr: 1, betas: [0.1, 0.2]}\n"
    )
    middle = write(tmp_path / "middle.yaml", f"base: {root}\nsteps: 2\noptim: {{lr: 3}}\n")
    leaf = write(tmp_path / "leaf.yaml", f"base: {middle}\nsteps: 4\n")
    assert load(Schema, leaf) == Schema(steps=4, mode="drop", optim=Rates(lr=3.0, betas=(0.1, 0.2)))
    assert "base" not in read_recipe(leaf)


def test_overrides_come_last_and_the_last_of_them_wins(tmp_path: Path) -> None:
    recipe = write(tmp_path / "r.yaml", "steps: 7\n")
    assert load(Schema, recipe, ["steps=8", "optim.lr=5e-4", "steps=9"]) == Schema(
        steps=9, optim=Rates(lr=5e-4)
    )


def test_a_base_chain_that_loops_is_an_error_that_shows_the_loop(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    write(one, f"base: {two}\n")
    write(two, f"base: {one}\n")
    with pytest.raises(ConfigError, match=rf"base chain loops: {one} -> {two} -> {one}"):
        load(Schema, str(one))


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("names=x", ("x",)),
        ("names=x,y", ("x", "y")),
        ("names=[x,y]", ("x", "y")),
        ("names=3", ("3",)),
        ("names=[]", ()),
    ],
)
def test_a_list_may_be_given_with_commas(override: str, names: tuple[str, ...]) -> None:
    assert load(Schema, None, [override]).names == names


def test_a_list_of_numbers_may_be_given_with_commas() -> None:
    assert load(Schema, None, ["rates=1e-2,1e-3", "optim.betas=0.5,0.6"]) == Schema(
        rates=(0.01, 0.001), optim=Rates(betas=(0.5, 0.6))
    )


def test_null_unsets_an_optional_key(tmp_path: Path) -> None:
    recipe = write(tmp_path / "r.yaml", "labels: there\n")
    assert load(Schema, recipe).labels == "there"
    assert load(Schema, recipe, ["labels=null"]).labels is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optm.lr=1", "override 'optm.lr=1': unknown key 'optm'; did you mean optim?"),
        ("optim.lrr=1", "override 'optim.lrr=1': unknown key 'optim.lrr'; did you mean lr?"),
        ("zzz=1", "unknown key 'zzz'; known: labels, mode, names, on, optim, rates, steps"),
        (
            "steps=many",
            "override 'steps=many': key 'steps': Value 'many' of type 'str' could not be",
        ),
        ("steps=1.5", "key 'steps': Value '1.5'"),
        ("steps=null", "key 'steps'"),
        ("mode=lose", "key 'mode': Invalid value 'lose', expected one of ['keep', 'drop']"),
        ("on=maybe", "key 'on': Value 'maybe' is not a valid bool"),
        ("optim=3", "key 'optim': "),
        ("optim.betas=0.5", "key 'optim.betas': "),
        ("steps=${nothing}", "key 'steps': Interpolation key 'nothing' not found"),
        ("steps", "override 'steps': expected key=value, for example optim.lr=1e-3"),
        ("=3", "override '=3': expected key=value"),
        ("steps={", "override 'steps={': not valid YAML"),
    ],
)
def test_a_wrong_override_is_named_with_its_key(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(Schema, None, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step: 7", "unknown key 'step'; did you mean steps?"),
        ("optim: {lrr: 7}", "unknown key 'optim.lrr'; did you mean lr?"),
        ("steps: x", "key 'steps': Value 'x' of type 'str' could not be converted to Integer"),
        (
            "optim: {lr: x}",
            "key 'optim.lr': Value 'x' of type 'str' could not be converted to Float",
        ),
        ("optim: 4", "key 'optim': "),
        ("optim: {betas: [1, 2, 3]}", "key 'optim.betas': "),
        ("steps: null", "key 'steps'"),
        ("- a\n- b", "expected keys and values, found ListConfig"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_wrong_recipe_is_named_with_its_key(tmp_path: Path, text: str, message: str) -> None:
    recipe = write(tmp_path / "r.yaml", text + "\n")
    with pytest.raises(ConfigError) as caught:
        load(Schema, recipe)
    assert str(caught.value).startswith(f"recipe {recipe}: ")
    assert message in str(caught.value)


def test_a_recipe_file_that_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^recipe file /nowhere/r\.yaml: no such file$"):
        load(Schema, "/nowhere/r.yaml")


def test_an_unknown_recipe_names_its_near_misses() -> None:
    with pytest.raises(ConfigError, match="unknown recipe 'mt4ssl_tny'; did you mean mt4ssl_tiny"):
        load(PretrainConfig, "mt4ssl_tny")


@pytest.mark.parametrize(
    "config",
    [
        Schema(),
        Schema(steps=3, names=("a", "b"), mode="drop", labels="x", optim=Rates(betas=(0.1, 0.2))),
        PretrainConfig(),
        ASRConfig(),
    ],
)
def test_a_config_survives_as_plain_containers(
    config: Schema | PretrainConfig | TaskConfig,
) -> None:
    assert from_dict(type(config), to_dict(config)) == config


def test_plain_containers_hold_no_types_of_ours() -> None:
    assert to_dict(Schema(names=("a",))) == {
        "steps": 5,
        "names": ["a"],
        "rates": [1.0],
        "mode": "keep",
        "labels": None,
        "on": True,
        "optim": {"lr": 1e-3, "betas": [0.9, 0.98]},
    }


def test_a_stored_config_with_foreign_keys_or_types_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"stored config: unknown key 'stepz'; did you mean steps\?"
    ):
        from_dict(Schema, {"stepz": 3})
    with pytest.raises(ConfigError, match="stored config: key 'steps': Value 'x'"):
        from_dict(Schema, {"steps": "x"})


def test_the_recipes_of_the_readme_are_shipped() -> None:
    assert {"mt4ssl_base", "mt4ssl_small", "mt4ssl_tiny", "asr", "phoneme", "speaker"} <= set(
        recipe_names()
    )


FIXTURE = Path(__file__).parent / "fixtures" / "recipes.json"
FORMER = json.loads(FIXTURE.read_text(encoding="utf-8"))  # one file each, at revision 4d85cb0


@pytest.mark.parametrize("name", FORMER)
def test_every_recipe_has_the_values_that_it_had_in_a_file_of_its_own(name: str) -> None:
    values = read_recipe(name)
    del values["about"]
    assert values == FORMER[name]


def test_a_file_may_be_based_on_a_part_and_its_own_parts_do_not_disturb_it(tmp_path: Path) -> None:
    recipe = write(tmp_path / "r.yaml", "base: asr_finetune_tiny\nsteps: 7\ntiny: {steps: 3}\n")
    assert read_recipe(recipe) == read_recipe("asr_finetune_tiny") | {"steps": 7}


TEMPER = """
about: emotions of a package that is not this one
task: speaker
steps: 30
sweep: [1.0e-2]
tiny: {steps: 3, tune: {workers: 2}}
finetune: {mode: finetune, sweep: [1.0e-3], tiny: {base: asr_finetune_tiny, task: speaker}}
"""


def install(site: Path, package: str, **files: str) -> None:
    """Write what pip installs of a package of recipes: its metadata and its folder."""
    info = site / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[mt4ssl_bench.recipes]\n{package} = {package}\n")
    (site / package / "tasks").mkdir(parents=True)
    (site / package / "__init__.py").touch()
    for name, text in files.items():
        write(site / package / "tasks" / f"{name}.yaml", text)


def run(site: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python in another process, to which the packages of a folder are installed."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False
    )


def test_another_package_adds_recipes_with_their_parts(tmp_path: Path) -> None:
    install(tmp_path, "plug_a", temper=TEMPER)
    listed = run(tmp_path, "-m", "mt4ssl_bench", "list", "tasks").stdout
    for name in (
        "temper",
        "temper_tiny",
        "temper_finetune",
        "temper_finetune_tiny",
        "asr_tiny",
    ):
        assert name in {line.split()[0] for line in listed.splitlines() if line}
    names = ["temper", "temper_tiny", "temper_finetune", "temper_finetune_tiny"]
    code = f"""
import json
from mt4ssl_bench.config import read_recipe
print(json.dumps([read_recipe(name) for name in {names}]))
"""
    plain, tiny, finetune, both = json.loads(run(tmp_path, "-c", code).stdout)
    assert plain["steps"] == 30
    assert tiny == plain | {"steps": 3, "tune": {"workers": 2}}
    assert finetune == {"task": "speaker", "mode": "finetune", "sweep": [1e-3]}
    assert both == read_recipe("asr_finetune_tiny") | {"task": "speaker"}


def test_an_error_names_file_part_and_key(tmp_path: Path) -> None:
    install(tmp_path, "plug_b", temper=TEMPER.replace("steps: 3,", "stepz: 3,"))
    code = "from mt4ssl_bench.downstream.plan import load_config; load_config('temper_tiny')"
    said = run(tmp_path, "-c", code).stderr.splitlines()[-1]
    file = tmp_path / "plug_b" / "tasks" / "temper.yaml"
    assert said.endswith(
        f"recipe temper_tiny ({file}, part tiny): unknown key 'stepz'; did you mean steps, "
        "sweep, store?"
    )


def test_a_recipe_that_cannot_be_used_costs_one_line_and_its_names_only(tmp_path: Path) -> None:
    install(tmp_path, "plug_c", temper=TEMPER, broken="a: [", asr_tiny="task: asr", odd="tiny: 3")
    install(tmp_path, "plug_d", temper="about: that name again\ntask: asr")
    done = run(tmp_path, "-m", "mt4ssl_bench", "list", "tasks")
    lines = [line for line in done.stderr.splitlines() if line]
    folder = tmp_path / "plug_c" / "tasks"
    assert done.returncode == 0
    assert "\ntemper_tiny " in done.stdout
    shown = " ".join(lines)
    for text in (
        f"left out: recipe broken ({folder}/broken.yaml): not valid YAML",
        f"left out: recipe odd ({folder}/odd.yaml): part 'tiny': expected keys and values, got '3'",
        f"recipe asr_tiny ({folder}/asr_tiny.yaml): not used, recipe asr_tiny (",
        "plug_d/tasks/temper.yaml): not used, recipe temper (",
    ):
        assert text in shown, shown
    assert read_recipe("asr_tiny")["steps"] == 500


@pytest.mark.parametrize("value", ["010", "1:30", "-0_7", "[1, 017]", "{a: 10:00}"])
def test_a_number_that_yaml_takes_for_another_one_is_refused(tmp_path: Path, value: str) -> None:
    file = tmp_path / "odd.yaml"
    file.write_text(f"steps: {value}\n")
    for recipe, overrides in ((str(file), []), (None, [f"steps={value}"])):
        with pytest.raises(ConfigError, match="is another number in YAML; expected it in decimals"):
            load(Schema, recipe, overrides)
    file.write_text("steps: 0\nnames: ['010', 2026-11-26, v1:30]\noptim: {lr: 0.01}\n")
    assert load(Schema, str(file)).names == ("010", "2026-11-26", "v1:30")


def test_only_a_truth_value_is_one() -> None:
    assert load(Schema, overrides=["on=0"]).on is False
    with pytest.raises(ConfigError, match="key 'on': Value '3' is not a valid bool"):
        load(Schema, overrides=["on=3"])


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_loads_against_its_schema(name: str) -> None:
    raw = read_recipe(name)
    config = load_config(name) if "task" in raw else load(PretrainConfig, name)
    assert config.about == raw["about"]
    assert len(config.about) > 20
    if isinstance(config, BaseConfig):
        assert config.task == re.sub("(_finetune)?(_tiny)?$", "", name)
    else:
        assert config.targets.offline.weight + config.targets.online.weight > 0
