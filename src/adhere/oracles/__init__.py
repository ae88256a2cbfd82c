"""Oracles judge whole outputs: see `adhere.oracles.base`. Those that bring a network or a database load when first used."""

from typing import TYPE_CHECKING, Any

from adhere.oracles.base import Oracle, judge, verdicts, violates
from adhere.oracles.callable import CallableOracle
from adhere.oracles.classifier import ClassifierOracle
from adhere.oracles.config import OracleConfig, build_oracle
from adhere.oracles.embedded import EmbeddedOracle
from adhere.oracles.jigsaw import JigsawOracle
from adhere.oracles.logic import And, Not, Or
from adhere.oracles.remote_config import LimitsConfig, PriceConfig
from adhere.oracles.rules import JsonOracle, LengthOracle, RegexOracle, WordListOracle

if TYPE_CHECKING:
    from adhere.oracles.cached import CachedOracle
    from adhere.oracles.endpoint import EndpointOracle
    from adhere.oracles.guard import GuardOracle
    from adhere.oracles.llm_judge import JudgeOracle
    from adhere.oracles.moderation import ModerationOracle
    from adhere.oracles.perspective import PerspectiveOracle

_HOMES = {
    "CachedOracle": "cached",
    "EndpointOracle": "endpoint",
    "GuardOracle": "guard",
    "JudgeOracle": "llm_judge",
    "ModerationOracle": "moderation",
    "PerspectiveOracle": "perspective",
}

__all__ = [
    "And",
    "CachedOracle",
    "CallableOracle",
    "ClassifierOracle",
    "EmbeddedOracle",
    "EndpointOracle",
    "GuardOracle",
    "JigsawOracle",
    "JsonOracle",
    "JudgeOracle",
    "LengthOracle",
    "LimitsConfig",
    "ModerationOracle",
    "Not",
    "Or",
    "Oracle",
    "OracleConfig",
    "PerspectiveOracle",
    "PriceConfig",
    "RegexOracle",
    "WordListOracle",
    "build_oracle",
    "judge",
    "verdicts",
    "violates",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
