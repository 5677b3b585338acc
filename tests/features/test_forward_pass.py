"""A pass over audio: an utterance's features do not depend on its batch, for models of several
kinds.
"""

import copy
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from builders import RATE, TOY
from fakes import Liar, Nosy, Picky, Small
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.encoders.load import load_upstream
from mt4ssl_bench.encoders.protocol import Features, Upstream
from mt4ssl_bench.errors import CorpusError, UpstreamError
from mt4ssl_bench.features import forward_pass
from mt4ssl_bench.features.crops import Crops
from mt4ssl_bench.features.forward_pass import Pass, padding_is_safe
from mt4ssl_bench.features.read_ahead import read_ahead


@pytest.fixture(scope="module")
def cuts(corpus: Corpus) -> list[Any]:
    return list(corpus.cuts("train"))


@pytest.fixture(scope="module", params=["toy", "fbank"])
def upstream(request: pytest.FixtureRequest) -> Upstream:
    return load_upstream(f"random:{TOY}" if request.param == "toy" else "fbank")


def collect(work: Pass, cuts: list[Any], **options: Any) -> dict[str, np.ndarray]:
    return {name: row for batch in work(cuts, **options) for name, row in batch}


@pytest.mark.parametrize("seconds", [4.0, 80.0])
def test_features_in_any_batch_are_those_of_a_batch_of_one(
    upstream: Upstream, cuts: list[Any], monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    work = Pass(upstream)
    assert padding_is_safe(upstream)
    alone = {name: row for cut in cuts for name, row in collect(work, [cut]).items()}
    monkeypatch.setattr(forward_pass, "BATCH_SECONDS", seconds)
    together = collect(work, cuts)
    assert set(together) == {cut.id for cut in cuts}
    for name, expected in alone.items():
        assert (
            together[name].shape
            == expected.shape
            == (upstream.num_layers, expected.shape[1], upstream.dim)
        )
        for layer in range(upstream.num_layers):
            error = np.abs(together[name][layer] - expected[layer]).max()
            assert error <= 1e-4 * np.abs(expected[layer]).max()


def test_means_are_the_means_of_frames(upstream: Upstream, cuts: list[Any]) -> None:
    frames, means = collect(Pass(upstream), cuts), collect(Pass(upstream, Crops(seconds=0)), cuts)
    for name, row in frames.items():
        assert means[name].shape == (len(row), 1, row.shape[2])
        assert np.allclose(means[name][:, 0], row.mean(1), rtol=0, atol=1e-4 * np.abs(row).max())


def test_a_cut_that_its_crops_cover_whole_is_heard_once(cuts: list[Any]) -> None:
    heard: list[int] = []

    class Counting(Nosy):
        fingerprint = "c"

        def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
            heard.extend(lengths.tolist())
            return Features(
                waveforms.unfold(1, 320, 320).mean(-1, keepdim=True)[None], lengths // 320
            )

    padding_is_safe(Counting())
    heard.clear()
    found = collect(Pass(Counting(), Crops(seconds=8, count=4)), cuts)
    assert len(heard) == len(cuts)
    assert all(row.shape == (1, 4, 1) and np.ptp(row) == 0 for row in found.values())
    heard.clear()
    found = collect(Pass(Counting(), Crops(seconds=0.5, count=4)), cuts)
    assert heard == [8_000] * 4 * len(cuts)
    assert all(row.shape == (1, 4, 1) and np.ptp(row) > 0 for row in found.values())


def test_a_model_that_padding_changes_hears_every_utterance_alone(
    cuts: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    work = Pass(Nosy())
    assert not padding_is_safe(work.upstream)
    assert not padding_is_safe(work.upstream)
    assert caplog.messages == [
        "nosy: padding changes the features; running one utterance per batch"
    ]
    together = collect(work, cuts)
    for cut in cuts:
        assert np.array_equal(together[cut.id], collect(work, [cut])[cut.id])


def test_what_is_done_is_not_yielded_and_the_rest_is_the_same(
    upstream: Upstream, cuts: list[Any]
) -> None:
    whole = collect(Pass(upstream), cuts)
    done = {cut.id for cut in cuts[::3]}
    rest = collect(Pass(upstream), cuts, done=done)
    assert set(rest) == set(whole) - done
    for name, row in rest.items():
        assert np.array_equal(row, whole[name])
    assert collect(Pass(upstream), cuts, done=set(whole)) == {}


def test_audio_that_cannot_be_read_is_an_error_or_left_out_where_that_is_allowed(
    upstream: Upstream, cuts: list[Any], tmp_path: Path
) -> None:
    gone = copy.deepcopy(cuts[3])
    gone.recording.sources[0].source = str(tmp_path / "gone.flac")
    members = [*cuts[:3], gone, *cuts[4:]]
    with pytest.raises(CorpusError, match=f"utterance '{gone.id}': .*no such file"):
        collect(Pass(upstream), members)
    unreadable: dict[str, str] = {}
    found = collect(Pass(upstream), members, unreadable=unreadable)
    assert set(found) == {cut.id for cut in cuts} - {gone.id}
    assert list(unreadable) == [gone.id]
    assert collect(Pass(upstream), [gone], unreadable=unreadable) == {}


def test_hidden_states_of_another_size_than_stated_are_refused_with_both_sizes(
    cuts: list[Any],
) -> None:
    with pytest.raises(
        UpstreamError,
        match=r"hidden states \(1, 1, \d+, 1\); .* \(1, 1,",
    ):
        collect(Pass(Liar()), cuts[:1])


def test_a_batch_that_fails_is_run_one_by_one_and_names_the_bad_utterance(
    cuts: list[Any],
) -> None:
    assert set(collect(Pass(Picky()), cuts)) == {cut.id for cut in cuts}
    unwanted = round(cuts[5].duration * RATE)
    with pytest.raises(
        UpstreamError, match=rf"failed on utterance '{cuts[5].id}' \(\d\.\d\d s\): out of memory$"
    ):
        collect(Pass(Picky(unwanted)), cuts)


def test_a_batch_that_does_not_fit_is_run_in_halves_and_said_once(
    cuts: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    roomy, small = Small(room=100), Small(room=2)
    expected = collect(Pass(roomy), cuts)
    assert max(roomy.batches) > 4, "else nothing is halved twice"
    found = collect(Pass(small), cuts)
    assert all(np.array_equal(found[name], values) for name, values in expected.items())
    assert len(found) == len(cuts)
    assert len(small.batches) < len(cuts), "one by one is for batches that fail otherwise"
    (line,) = [r.getMessage() for r in caplog.records if "out of device memory" in r.getMessage()]
    assert line.startswith("small: out of device memory on a batch of")
    with pytest.raises(UpstreamError, match="failed on utterance .*CUDA out of memory"):
        collect(Pass(Small(room=0)), cuts)
    crops = Crops(seconds=0.2, count=4)  # four waveforms of one utterance do not fit, either
    expected, found = (collect(Pass(model, crops), cuts[:1]) for model in (roomy, Small(room=1)))
    assert np.array_equal(found[cuts[0].id], expected[cuts[0].id])


def test_batches_come_in_order_and_no_more_than_some_are_read_ahead() -> None:
    begun: list[int] = []

    def read(number: int) -> int:
        begun.append(number)
        return number * number

    taken = read_ahead(([n, n + 100] for n in range(20)), read, 3)
    assert next(taken) == ([0, 100], [0, 10_000])
    time.sleep(0.05)
    assert sorted(begun) == [0, 1, 2, 3, 100, 101, 102, 103]
    assert list(taken) == [([n, n + 100], [n * n, (n + 100) ** 2]) for n in range(1, 20)]


def test_threads_share_the_first_batch() -> None:
    together = threading.Barrier(3, timeout=10)  # broken unless three items are read at once

    def read(item: int) -> int:
        return together.wait() and item

    assert next(read_ahead([[1, 2, 3], [4, 5, 6]], read, 3))[0] == [1, 2, 3]


def test_what_reading_raises_is_raised_where_its_batch_is_due() -> None:
    taken = read_ahead([[1], [0], [2]], lambda number: 2 // number, 2)
    assert next(taken) == ([1], [2])
    with pytest.raises(ZeroDivisionError):
        next(taken)
