"""Work in parts: each made once, by whichever process has it, and collected by the main one."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from mt4ssl_bench.clustering import work_by_processes
from mt4ssl_bench.clustering.work_by_processes import Parts
from mt4ssl_bench.training.distributed import ALONE, World


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_by_processes, "ITEMS", 4)


def squares(places: range) -> dict[str, np.ndarray]:
    return {"squares": np.array([place**2 for place in places])}


def test_parts_are_read_in_order_whoever_made_them(tmp_path: Path) -> None:
    for rank in (1, 0):  # the main process last: it alone looks whether all parts are there
        Waiting(rank=rank, size=2).parts(tmp_path).make("squares", 10, squares, "squaring")
    found = [part["squares"].tolist() for part in Parts(tmp_path, ALONE).read("squares")]
    assert found == [[0, 1, 4, 9], [16, 25, 36, 49], [64, 81]]


def test_the_main_process_may_remove_the_parts_before_the_others_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    Waiting(rank=1, size=2, meanwhile=lambda: shutil.rmtree(folder)).parts(folder).make(
        "squares", 10, squares, ""
    )
    assert not folder.exists()


@dataclass(frozen=True)
class Waiting(World):
    """One process of several, without the others: what they do while it waits is `meanwhile`."""

    meanwhile: Callable[[], None] = lambda: None

    def barrier(self) -> None:
        self.meanwhile()

    def parts(self, folder: Path) -> Parts:
        return Parts(folder, self)
