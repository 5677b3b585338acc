"""Registries: nothing is imported before it is asked for, and a wrong name meets its near
misses.
"""

import json
import subprocess
import sys
from fractions import Fraction

import pytest

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
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(made.stdout) == [False, True, False]


def test_later_changes_to_the_addresses_do_not_reach_the_registry() -> None:
    addresses = {"fraction": "fractions:Fraction"}
    table: Registry[type[Fraction]] = Registry("number", addresses)
    addresses.clear()
    assert table.get("fraction") is Fraction
