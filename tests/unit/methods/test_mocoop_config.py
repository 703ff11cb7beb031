"""What the mixture of prompts refuses before any work."""

from __future__ import annotations

from typing import Any

import pytest

from promptmix.errors import ConfigError
from promptmix.methods.mocoop import MixtureOfPrompts, MixtureOfPromptsConfig


@pytest.mark.parametrize("temperature", [0, -1.0, "scale"])
def test_a_temperature_is_above_0_or_the_scale(temperature: Any) -> None:
    with pytest.raises(ConfigError, match=f"text_temperature is {temperature!r}.* 'logit_scale'"):
        MixtureOfPrompts.parse_options({"text_temperature": temperature})


@pytest.mark.parametrize("temperature", [0.5, 1, "logit_scale"])
def test_a_temperature_may_be_either(temperature: Any) -> None:
    parsed = MixtureOfPrompts.parse_options({"text_temperature": temperature})
    assert isinstance(parsed, MixtureOfPromptsConfig)
    assert parsed.text_temperature == temperature


@pytest.mark.parametrize("number", [0, -1, 2.5, "held-out", True])
def test_a_number_of_experts_is_one_or_more_or_held_out(number: Any) -> None:
    with pytest.raises(ConfigError, match=f"regroup is {number!r}.* 'held_out'"):
        MixtureOfPrompts.parse_options({"regroup": number})
