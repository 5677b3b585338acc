"""The head of a fine-tuned model: which hidden states it reads, and what it averages."""

import pytest
import torch

from mt4ssl_bench.downstream.training.finetuned_model import TunedHead
from mt4ssl_bench.encoders.finetuning import TuneConfig
from mt4ssl_bench.errors import ConfigError

LENGTHS = torch.tensor([7, 4])


@pytest.fixture(scope="module")
def features() -> torch.Tensor:
    return torch.randn(3, 2, 7, 5, generator=torch.Generator().manual_seed(0))  # (L, B, T, D)


def head(layer: str, *, pooled: bool = False) -> TunedHead:
    torch.manual_seed(0)
    return TunedHead(3, 5, 4, TuneConfig(layer=layer), pooled=pooled)


@pytest.mark.parametrize(("layer", "number"), [("-1", 2), ("2", 2), ("0", 0), ("-3", 0)])
def test_one_hidden_state_goes_through_a_linear_map(
    features: torch.Tensor, layer: str, number: int
) -> None:
    model = head(layer)
    logits, lengths = model(features, LENGTHS)
    torch.testing.assert_close(logits, model.output(features[number]))
    assert lengths is LENGTHS
    assert model.layer_weights == [float(index == number) for index in range(3)]


def test_the_weighted_sum_begins_with_equal_weights(features: torch.Tensor) -> None:
    model = head("weighted")
    logits, _ = model(features, LENGTHS)
    torch.testing.assert_close(logits, model.output(features.mean(0)))
    assert model.layer_weights == pytest.approx([1 / 3] * 3)


def test_a_pooled_head_averages_real_frames_only(features: torch.Tensor) -> None:
    model = head("-1", pooled=True)
    expected = [model.output(features[2, row, :length].mean(0)) for row, length in ((0, 7), (1, 4))]
    torch.testing.assert_close(model(features, LENGTHS)[0], torch.stack(expected))


@pytest.mark.parametrize("layer", ["3", "-4", "last", "1.0"])
def test_a_layer_that_is_not_there_is_named_with_those_that_are(layer: str) -> None:
    with pytest.raises(ConfigError, match=rf"tune\.layer={layer}: .* -3 to 2"):
        head(layer)
