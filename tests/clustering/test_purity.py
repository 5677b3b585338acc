"""Phone measures against numbers worked out by hand and scikit-learn's mutual information."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from mt4ssl_bench.clustering.purity import at_frames, measure, purity
from mt4ssl_bench.data.alignment import Alignment, read_alignment
from mt4ssl_bench.data.label_store import LabelStore, write_labels
from mt4ssl_bench.data.labels import LabelInfo
from mt4ssl_bench.errors import CorpusError


def store(folder: Path, labels: list[int]) -> LabelStore:
    return write_labels(
        folder, LabelInfo(digest="d", clusters=3), [("a", np.array(labels)), ("b", np.zeros(5))]
    )


def test_the_measures_of_a_small_table() -> None:
    found = purity(np.array([[4, 1], [0, 3], [2, 0]]))  # three clusters, two phones, ten frames
    assert found["phone_purity"] == pytest.approx((4 + 3 + 2) / 10)
    assert found["cluster_purity"] == pytest.approx((4 + 3) / 10)
    clusters, phones = [0] * 5 + [1] * 3 + [2] * 2, [0] * 4 + [1] * 4 + [0] * 2
    entropy = -(0.6 * np.log(0.6) + 0.4 * np.log(0.4))
    assert found["pnmi"] == pytest.approx(mutual_info_score(clusters, phones) / entropy)


def test_clusters_that_are_phones_are_pure_and_one_cluster_knows_nothing() -> None:
    assert purity(np.diag([5, 2, 9])) == pytest.approx(
        {"phone_purity": 1, "cluster_purity": 1, "pnmi": 1}
    )
    assert purity(np.array([[6, 2], [0, 0]])) == pytest.approx(
        {"phone_purity": 0.75, "cluster_purity": 1, "pnmi": 0}
    )


def test_a_frame_has_the_phone_at_the_middle_of_its_window() -> None:
    # frame t is centred at 12.5 ms + 20 ms t
    phones = at_frames([(0.0, 0.0525, "AA"), (0.0525, 0.08, "B")], {"AA": 0, "B": 1}, 5)
    assert phones.tolist() == [0, 0, 1, 1, -1]


def test_an_alignment_is_joined_by_utterance_and_what_is_unknown_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ctm = tmp_path / "phones.ctm"
    ctm.write_text(
        "\ufeffa 1 0.00 0.04 AA\na 1 0.04 0.04 B\nelsewhere 1 0 1 SIL\n", encoding="utf-8"
    )
    found = measure(store(tmp_path / "labels", [2, 2, 1, 1]), read_alignment(ctm))
    assert found == pytest.approx(
        {"aligned_utterances": 1, "aligned_frames": 4}
        | {"phone_purity": 1, "cluster_purity": 1, "pnmi": 1}
    )
    (line,) = caplog.messages
    assert "1 of its 2 utterances are not among the labeled ones; the first is 'elsewhere'" in line


def test_a_file_in_a_folder_is_joined_by_either_of_its_names(tmp_path: Path) -> None:
    labels = store(tmp_path / "labels", [2, 2])
    segments = [(0.0, 0.04, "AA")]
    for alignment in (Alignment({"a": segments}), Alignment({"spk-a": segments}, {"spk-a": "a"})):
        assert measure(labels, alignment)["aligned_frames"] == 2
    with pytest.raises(CorpusError, match="names none of the labeled utterances"):
        measure(labels, Alignment({"spk-a": segments}))
