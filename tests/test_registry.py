"""Registries: nothing is imported before it is asked for, and a wrong name meets its near
misses.
"""

import json
import sys
from fractions import Fraction
from numbers import Number
from pathlib import Path

import pytest

from builders import python
from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.registry import Registry, hint

NUMBERS: Registry[type[Fraction]] = Registry(
    "number",
    {"fraction": "fractions:Fraction", "decimal": "decimal:Decimal", "broken": "no_such_module:X"},
)


def test_a_name_gives_the_object_behind_its_address() -> None:
    assert NUMBERS.get("fraction") is Fraction


def test_names_come_sorted() -> None:
    assert list(NUMBERS) == ["broken", "decimal", "fraction"]


def test_an_unknown_name_meets_its_near_misses() -> None:
    with pytest.raises(ConfigError, match=r"^unknown number 'fractoin'; did you mean fraction\?$"):
        NUMBERS.get("fractoin")


def test_an_unknown_name_without_near_misses_meets_the_whole_list() -> None:
    with pytest.raises(
        ConfigError, match=r"^unknown number 'zzz'; known: broken, decimal, fraction$"
    ):
        NUMBERS.get("zzz")


def test_a_long_list_is_cut_after_twenty_names_and_counted() -> None:
    known = [f"n{i:02}" for i in range(25)]
    assert hint("zzz", known) == f"known: {', '.join(known[:20])}, ... (25 in all)"


def test_of_many_near_misses_three_are_named_nearest_first() -> None:
    known = ["speaker", "speak", "speakers", "spear", "asr"]
    assert hint("speakr", known) == "did you mean speaker, spear, speak?"


def test_an_address_costs_nothing_until_it_is_asked_for() -> None:
    code = (
        "import json, sys\n"
        "from mt4ssl_bench.registry import Registry\n"
        "table = Registry('module', {'wave': 'wave:open'})\n"
        "before = 'wave' in sys.modules\n"
        "table.get('wave')\n"
        "print(json.dumps([before, 'wave' in sys.modules, 'torch' in sys.modules]))\n"
    )
    assert json.loads(python(code)) == [False, True, False]


def test_later_changes_to_the_addresses_do_not_reach_the_registry() -> None:
    addresses = {"fraction": "fractions:Fraction"}
    table: Registry[type[Fraction]] = Registry("number", addresses)
    addresses.clear()
    assert table.get("fraction") is Fraction


GROUP = "mt4ssl_bench.numbers"


def install(folder: Path, package: str, points: str, module: str = "", requires: str = "") -> None:
    """Write what pip installs of a package with entry points: its metadata, and a module."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n{needs}")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{points}\n")
    (folder / f"{package}.py").write_text(module)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def open_registry() -> Registry[type[Number]]:
    return Registry("number", {"fraction": "fractions:Fraction"}, group=GROUP, base=Number)


def test_another_package_adds_a_name(site: Path) -> None:
    install(site, "plug_a", "half = plug_a:Half", "import numbers\nclass Half(numbers.Number): ...")
    table = open_registry()
    assert list(table) == ["fraction", "half"]
    assert table.get("half").__name__ == "Half"
    assert dict(table.items()).keys() == {"fraction", "half"}


@pytest.mark.parametrize(
    ("module", "requires", "message"),
    [
        ("import no_such_thing", "", r"cannot be imported \(ModuleNotFoundError: .*no_such_thing"),
        ("raise RuntimeError", "", r"cannot be imported \(RuntimeError\)$"),
        ("Half = 'half'", "", r"plug_b:Half is no Number \(str\)"),
        ("class Half: ...", "", r"plug_b:Half is no Number \(type\)"),
        ("", "mt4ssl-bench<0.1", r"made for mt4ssl-bench<0.1, this is \S+; install a version"),
        ("", "MT4SSL_bench ==99.*", r"made for MT4SSL_bench==99\.\*, this is"),
    ],
)
def test_what_is_wrong_with_an_added_name_costs_one_line_and_that_name_only(
    module: str,
    requires: str,
    message: str,
    site: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    install(site, "plug_b", "half = plug_b:Half", module, requires)
    sys.modules.pop("plug_b", None)
    table = open_registry()
    with pytest.raises(ConfigError, match=rf"^number 'half' of plug_b 1\.0: .*{message}"):
        table.get("half")
    assert list(dict(table.items())) == ["fraction"]
    assert len(caplog.records) == 1
    assert "\n" not in caplog.text.strip()


def test_an_added_class_without_what_this_version_asks_for_says_what_it_lacks(site: Path) -> None:
    install(site, "plug_c", "half = plug_c:Half", "import numbers\nclass Half(numbers.Real): ...")
    with pytest.raises(
        ConfigError, match=r"plug_c:Half lacks __abs__, .*, as this version's Number"
    ):
        open_registry().get("half")


def test_a_name_of_two_packages_is_refused_and_the_others_are_not(site: Path) -> None:
    install(site, "plug_d", "half = plug_d:Half\nthird = fractions:Fraction", "")
    install(site, "plug_e", "half = plug_e:Half", "")
    table = open_registry()
    with pytest.raises(ConfigError, match=r"plug_. 1\.0: plug_. 1\.0 registers that name too"):
        table.get("half")
    assert table.get("third") is Fraction


def test_a_name_of_this_package_is_not_replaced(
    site: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install(site, "plug_f", "fraction = decimal:Decimal")
    assert open_registry().get("fraction") is Fraction
    assert list(open_registry()) == ["fraction"]
    assert "'fraction' of plug_f 1.0: not used, this package has one of that name" in caplog.text
