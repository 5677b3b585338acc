"""The x-vector head and AM-softmax against s3prl's own modules carrying the same weights."""

import contextlib
import importlib
import io
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mt4ssl_bench.downstream.heads.x_vector import NEEDED, XVectorConfig, XVectorHead, statistics
from mt4ssl_bench.downstream.tasks.verification import Verification, VerificationConfig

LAYERS, DIM, SPEAKERS = 3, 20, 7
LENGTHS = torch.tensor([31, 47, NEEDED])  # not sorted, as batches come


def imported(name: str) -> Any:
    """A module of s3prl, whose import prints and takes some seconds."""
    pytest.importorskip("s3prl")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def ours() -> XVectorHead:
    torch.manual_seed(0)
    head = XVectorHead(LAYERS, DIM, SPEAKERS, XVectorConfig())  # SUPERB's sizes
    head.sum.scores.data = torch.linspace(-1, 2, LAYERS)
    return head


@pytest.fixture(scope="module")
def features() -> Tensor:
    torch.manual_seed(1)
    x = torch.randn(LAYERS, len(LENGTHS), int(LENGTHS.max()), DIM)
    for row, length in enumerate(LENGTHS.tolist()):
        x[:, row, length:] = 1e3  # what stands in the padding must not matter
    return x


def copied(theirs: Any, ours: XVectorHead) -> Any:
    """Give s3prl's SuperbXvector our weights: it stacks frames, which is a convolution."""
    theirs.projector.load_state_dict(ours.projection.state_dict())
    for layer, conv in zip(theirs.tdnns.module, ours.frames, strict=True):
        assert isinstance(conv, nn.Conv1d)
        layer.kernel.weight.data = conv.weight.data.permute(0, 2, 1).flatten(1).clone()
        layer.kernel.bias.data = conv.bias.data.clone()  # type: ignore[union-attr]
    theirs.affine.linear1.load_state_dict(ours.embedding.state_dict())
    theirs.affine.linear2.load_state_dict(ours.second.state_dict())
    return theirs


def same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("training", [False, True], ids=["embedding", "training"])
def test_the_head_is_their_x_vector_on_padded_batches(
    ours: XVectorHead, features: Tensor, *, training: bool
) -> None:
    theirs = copied(imported("s3prl.nn.speaker_model").SuperbXvector(DIM), ours)
    theirs.train(training)
    x = ours.sum(features)
    expected = theirs(x, LENGTHS)
    values, lengths = ours.train(training)(features, LENGTHS)
    assert lengths is LENGTHS
    if training:
        expected = F.normalize(expected, dim=1) @ F.normalize(ours.speakers, dim=0)
    same(values, expected)
    for row, length in enumerate(LENGTHS.tolist()):  # and each utterance as if it were on its own
        (single,), _ = ours(features[:, row : row + 1, :length], LENGTHS[row : row + 1])
        same(values[row], single)


def test_their_old_model_agrees_on_single_utterances_and_pools_a_frame_too_many_in_batches(
    ours: XVectorHead, features: Tensor
) -> None:
    model = imported("s3prl.downstream.sv_voxceleb1.model")
    old = model.Model(512, 1500, "SP", "XVector", "UtteranceExtractor", {
        "agg_dim": 1500, "dropout_p": 0.0, "batch_norm": False
    })  # fmt: skip
    names = SimpleNamespace(
        projector=nn.Linear(DIM, 512),
        tdnns=old.framelevel_feature_extractor,
        affine=old.utterancelevel_feature_extractor,
    )
    copied(names, ours)
    x = names.projector(ours.eval().sum(features))
    embeddings, _ = ours(features, LENGTHS)

    def mask(lengths: list[int]) -> Tensor:
        rows = [torch.ones(length - 14) for length in lengths]
        return (1 - nn.utils.rnn.pad_sequence(rows, batch_first=True)) * -100_000.0

    for row, length in enumerate(LENGTHS.tolist()):
        (single,) = old.inference(x[row : row + 1, :length], mask([length]))
        same(embeddings[row], single)
    batch = old.inference(x, mask(LENGTHS.tolist()))
    longest = int(LENGTHS.argmax())
    same(embeddings[longest], batch[longest])
    others = [row for row in range(len(LENGTHS)) if row != longest]
    assert (embeddings - batch)[others].abs().max() > 1e-2


def test_gradients_are_their_modules(ours: XVectorHead, features: Tensor) -> None:
    theirs = copied(imported("s3prl.nn.speaker_model").SuperbXvector(DIM), ours)
    objective = imported("s3prl.downstream.sv_voxceleb1.model").AMSoftmaxLoss(512, SPEAKERS)
    objective.W.data = ours.speakers.data.clone()
    labels = torch.tensor([3, 0, 6])
    expected = objective(theirs.train()(ours.sum(features).detach(), LENGTHS), labels)
    expected.backward()
    ours.zero_grad()
    cosines, lengths = ours.train()(features, LENGTHS)
    task = Verification(VerificationConfig())
    loss = task.loss(cosines, lengths, list(labels[:, None])).mean()
    loss.backward()
    same(loss, expected)
    same(ours.speakers.grad, objective.W.grad)  # type: ignore[arg-type]
    same(ours.projection.weight.grad, theirs.projector.weight.grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("module", ["s3prl.downstream.sv_voxceleb1.model", "s3prl.nn.speaker_loss"])
def test_am_softmax_is_theirs_on_the_same_embeddings(module: str) -> None:
    torch.manual_seed(2)
    x, labels = torch.randn(5, 12), torch.tensor([0, 4, 4, 2, 1])
    if module.endswith("model"):
        objective = imported(module).AMSoftmaxLoss(12, 6, s=30.0, m=0.4)
        expected = objective(x, labels)
    else:
        objective = imported(module).amsoftmax(12, 6, margin=0.4, scale=30)
        expected, _ = objective(x, labels)
    cosines = F.normalize(x, dim=1) @ F.normalize(objective.W, dim=0)
    losses = Verification(VerificationConfig()).loss(cosines, LENGTHS, list(labels[:, None]))
    assert losses.shape == (5,)
    same(losses.mean(), expected)


def test_statistics_have_finite_gradients_where_a_channel_never_changes() -> None:
    x = torch.zeros(2, 3, 8, requires_grad=True)
    statistics(x, torch.tensor([8, 5])).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_rows_of_too_few_frames_are_finite_and_change_no_other(
    ours: XVectorHead, features: Tensor
) -> None:
    lengths = torch.tensor([31, 47, 3])
    values, _ = ours.eval()(features, lengths)
    assert values.isfinite().all()
    same(values[:2], ours(features, LENGTHS)[0][:2])
    values, _ = ours(features[:, :, :3], torch.tensor([3, 2, 0]))
    assert values.isfinite().all()
    task = Verification(VerificationConfig())
    assert [bool(text) for text in task.decode(values, torch.tensor([16, 15, 0]))] == [
        True,
        False,
        False,
    ]
