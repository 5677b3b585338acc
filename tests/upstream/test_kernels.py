"""Attention and dropout against torch's own, with the same elements dropped."""

import pytest
import torch
from torch import Tensor

from builders import toy_batch, toy_masks, toy_model
from mt4ssl_bench.upstream import encoder, kernels


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None, keep: Tensor, p: float
) -> Tensor:
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if keys is not None:
        scores = scores.masked_fill(~keys, -torch.inf)
    return (scores.softmax(-1) * keep / (1 - p)) @ v


@pytest.mark.parametrize("padded", [False, True])
def test_attention_with_dropped_weights_equals_the_plain_form_forward_and_backward(
    *, padded: bool
) -> None:
    torch.manual_seed(0)
    q = torch.randn(2, 3, 5, 8, dtype=torch.float64, requires_grad=True)  # fewer queries than keys
    k, v = (torch.randn(2, 3, 9, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    keys = (
        torch.arange(9)[None, None, None] < torch.tensor([9, 6])[:, None, None, None]
        if padded
        else None
    )
    torch.manual_seed(1)
    found = kernels.attention(*(x.transpose(1, 2) for x in (q, k, v)), keys, 0.3).transpose(1, 2)
    torch.manual_seed(1)
    keep = kernels.draw(torch.Size((2, 3, 5, 9)), 0.3)
    assert 0.1 < 1 - keep.double().mean() < 0.5
    expected = plain_attention(q, k, v, keys, keep, 0.3)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    grad = torch.randn_like(found)
    ours = torch.autograd.grad(found, (q, k, v), grad)
    for a, b in zip(ours, torch.autograd.grad(expected, (q, k, v), grad), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_dropout_scales_what_it_keeps_and_its_gradient_alike() -> None:
    torch.manual_seed(0)
    x = torch.ones(1000, 1001, requires_grad=True)
    y = kernels.dropout(x, 0.1, training=True)
    assert sorted(y.unique().tolist()) == pytest.approx([0.0, 1 / 0.9])
    assert (y == 0).float().mean().item() == pytest.approx(
        0.1, abs=1e-3
    )  # three standard deviations
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    assert kernels.dropout(x, 0.1, training=False) is x


def test_each_quarter_of_a_word_is_drawn_fairly() -> None:
    torch.manual_seed(0)
    kept = kernels.draw(torch.Size((250_000, 4)), 0.25).float().mean(0)
    torch.testing.assert_close(kept, torch.full((4,), 0.75), atol=3e-3, rtol=0)
    assert kernels.draw(torch.Size((3, 5)), 0.5).shape == (3, 5)


def test_spans_begin_where_utterances_and_their_padding_do() -> None:
    padding = torch.arange(6) >= torch.tensor([6, 4, 1])[:, None]
    spans = kernels.Spans.of(padding)
    assert spans.keys.tolist() == [0, 6, 6, 10, 12, 13, 18]
    assert torch.equal(spans.queries, spans.keys)
    assert spans.keys.dtype == torch.int32  # what flash attention wants
    few = kernels.Spans.of(padding, 2)  # real frames only attend: none of them is padding
    assert few.queries.tolist() == [0, 2, 2, 4, 4, 6, 6]
    assert torch.equal(few.keys, spans.keys)


def attention_by_span(
    x: list[Tensor], spans: kernels.Spans, longest: tuple[int, int], p: float
) -> Tensor:
    """Return what flash attention does, without a GPU."""
    assert p == 0
    parts = []
    for n in range(len(spans.keys) - 1):
        (first, end), (start, stop) = spans.queries[n : n + 2], spans.keys[n : n + 2]
        assert end - first <= longest[0]
        assert stop - start <= longest[1]
        q, k, v = x[0][first:end], x[1][start:stop], x[2][start:stop]
        if len(q):
            scores = torch.einsum("qhe,khe->hqk", q, k) * q.shape[-1] ** -0.5
            parts.append(torch.einsum("hqk,khe->qhe", scores.softmax(-1), v))
    return torch.cat(parts)


def test_attention_in_spans_gives_the_losses_and_gradients_of_a_mask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    still = ("encoder.dropout=0", "encoder.attention_dropout=0", "encoder.layer_drop=0")
    model = toy_model(*still).train().double()
    waves, *rest = toy_batch(*toy_masks(2))
    found, spans = [], list[kernels.Spans]()

    def flash(x: list[Tensor], at: kernels.Spans, longest: tuple[int, int], p: float) -> Tensor:
        spans.append(at)
        return attention_by_span(x, at, longest, p)

    monkeypatch.setattr(kernels, "flash", flash)
    for runs in (False, True):
        monkeypatch.setattr(encoder, "flash_runs", lambda *_, runs=runs: runs)
        model.zero_grad()
        total = model.total(model(waves.double(), *rest))
        total.backward()  # type: ignore[no-untyped-call]
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found.append((total, grads))
    layers = len(model.encoder.layers)
    assert len(spans) == 2 * layers, "the student's and the teacher's"
    (expected, grads), (total, ours) = found
    torch.testing.assert_close(total, expected, rtol=1e-10, atol=0)
    for name, grad in grads.items():
        torch.testing.assert_close(ours[name], grad, rtol=1e-8, atol=1e-10, msg=name)
