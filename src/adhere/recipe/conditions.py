"""What a model was measured under, in words: what two evaluations must share to be compared as equals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from adhere.guidance.constraint import Constraint
from adhere.oracles.base import Oracle
from adhere.recipe.manifest import corpus_identity, machine, now
from adhere.recipe.schema import Recipe
from adhere.sampling.sampler import SamplingConfig

_NOT_DRAWN_BY = {"batch_size"}  # of a sampling section: changes how fast, not what


def conditions_of(recipe: Recipe, constraints: Sequence[Constraint], judges: Mapping[str, Oracle]) -> dict[str, str]:
    """Seed, sampling, corpus, the version of every oracle by its name here (`oracle <name>`), machine and date."""
    drawn = recipe.evaluation.sampling or recipe.sampling
    sampling = drawn.model_dump(mode="json", include=set(SamplingConfig.model_fields) - _NOT_DRAWN_BY)
    corpus = corpus_identity(recipe)
    here = machine()
    versions = {c.name: c.oracle.version for c in constraints} | {name: o.version for name, o in judges.items()}
    return {
        "seed": str(recipe.seed),
        "sampling": json.dumps(sampling, sort_keys=True),
        "corpus": corpus.get("sha256") or json.dumps(corpus, sort_keys=True),
        **{f"oracle {name}": version for name, version in versions.items()},
        "machine": f"{here.get('gpu') or here['cpu']}, {here['cores']} cores",
        "date": now(),
    }
