"""Oracles judge whole outputs: see `adhere.oracles.base`."""

from adhere.oracles.base import Oracle, judge, verdicts, violates
from adhere.oracles.callable import CallableOracle
from adhere.oracles.classifier import ClassifierOracle
from adhere.oracles.config import OracleConfig, build_oracle
from adhere.oracles.embedded import EmbeddedOracle
from adhere.oracles.jigsaw import JigsawOracle
from adhere.oracles.logic import And, Not, Or
from adhere.oracles.rules import JsonOracle, LengthOracle, RegexOracle, WordListOracle

__all__ = [
    "And",
    "CallableOracle",
    "ClassifierOracle",
    "EmbeddedOracle",
    "JigsawOracle",
    "JsonOracle",
    "LengthOracle",
    "Not",
    "Or",
    "Oracle",
    "OracleConfig",
    "RegexOracle",
    "WordListOracle",
    "build_oracle",
    "judge",
    "verdicts",
    "violates",
]
