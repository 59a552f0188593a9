"""Which layers of a model are captured, and what is said of the others."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest


@pytest.fixture(scope="module")
def kinds() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SGLang's and torch's own, at their import
        from attn_kernels.sglang_plugin import kinds
    return kinds


def layer(layer_id: int, **changes: Any) -> SimpleNamespace:
    """The parts of SGLang's attention layer that are looked at, as they are by default."""
    plain = {
        "layer_id": layer_id,
        "sliding_window_size": -1,
        "is_cross_attention": False,
        "attn_type": "decoder",
        "use_irope": False,
        "xai_temperature_len": -1,
        "logit_cap": 0.0,
        "logit_capping_method": "tanh",
    }
    return SimpleNamespace(**{**plain, **changes})


def found(kinds: Any, layers: list[Any], **options: Any) -> Any:
    plain = {"num_layers": len(layers), "is_torch_native": False, "has_window_pool": False}
    return kinds.survey_of(layers, **{**plain, **options})


def test_full_attention_layers_are_chosen_before_windowed_ones(kinds: Any) -> None:
    survey = found(kinds, [layer(i, sliding_window_size=-1 if i % 6 == 5 else 512) for i in range(24)])
    assert survey.layer_ids == (5, 5, 11, 11, 17, 17, 23, 23)
    assert survey.told().startswith("layers 0-4, 6-10, 12-16, 18-22 with a sliding window")


def test_windowed_layers_are_captured_where_there_are_no_others(kinds: Any) -> None:
    layers = [layer(i, sliding_window_size=64) for i in range(8)]
    assert found(kinds, layers).layer_ids == tuple(range(8))
    assert found(kinds, layers).told() == ""
    refused = found(kinds, layers, is_torch_native=True, has_window_pool=True)
    assert refused.layer_ids == ()
    assert "torch_native reads at other places" in refused.told()


def test_layers_without_softmax_attention_are_left_out(kinds: Any) -> None:
    survey = found(kinds, [layer(i) for i in (3, 7, 11)], num_layers=12)
    assert set(survey.layer_ids) == {3, 7, 11}
    assert survey.told() == "layers 0-2, 4-6, 8-10 without softmax attention"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"is_cross_attention": True}, "with cross-attention"),
        ({"attn_type": "encoder_only"}, "that are not causal"),
        ({"use_irope": True}, "with chunked local attention"),
        ({"xai_temperature_len": 1024}, "with a temperature that grows with the context"),
        ({"logit_cap": 30.0, "logit_capping_method": "none"}, "whose logits are capped by none"),
    ],
)
def test_what_cannot_be_said_exactly_is_left_out_by_name(kinds: Any, changes: dict[str, Any], said: str) -> None:
    survey = found(kinds, [layer(0), layer(1, **changes), layer(2)])
    assert set(survey.layer_ids) == {0, 2}
    assert survey.told() == f"layers 1 {said}"
    assert found(kinds, [layer(0, **changes)]).layer_ids == ()


def test_latent_attention_s_two_forms_of_a_layer_are_one_layer(kinds: Any) -> None:
    survey = found(kinds, [layer(i // 2) for i in range(6)], num_layers=3)
    assert survey.layer_ids == (0, 0, 1, 1, 1, 1, 2, 2)
    assert survey.told() == ""


def test_a_backend_that_cannot_be_read_is_named(kinds: Any) -> None:
    class FlashInferAttnBackend:
        pass

    survey = kinds.survey(SimpleNamespace(attn_backend=FlashInferAttnBackend()))
    assert survey.layer_ids == ()
    assert survey.told() == "attention cannot be read from FlashInferAttnBackend: use --attention-backend triton"
