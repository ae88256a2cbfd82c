"""A toy world without a language model: every token is as likely as every other, and one of them is banned."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from adhere.guidance.evidence import Evidence, ReadEvidence
from adhere.guidance.likely_tokens import likely_tokens
from adhere.models.nado import Nado, build_nado
from adhere.models.nado_config import NadoConfig
from adhere.records import Verdict

VOCABULARY, BANNED = 24, 3

MakeEvidence = Callable[..., list[ReadEvidence]]
MakeNado = Callable[[], Nado]


@pytest.fixture(scope="module")
def ray_of_its_own() -> Iterator[None]:
    """A Ray on this machine for all tests of a file."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # beside other tests it would hardly get on
        ray.init(
            address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
            object_store_memory=80 * 2**20,
        )  # fmt: skip
        yield
        ray.shutdown()


@pytest.fixture
def make_nado() -> MakeNado:
    """A fresh NADO that reads tokens, the same every time."""
    embeddings_VD = torch.randn(VOCABULARY, 16, generator=torch.Generator().manual_seed(5))
    return lambda: build_nado(NadoConfig(shape="own", width=16, heads=2, rank=8), embeddings_VD, seed=0)


@pytest.fixture
def toy_evidence() -> MakeEvidence:
    """`count` sequences of `length` tokens, drawn evenly; those with the banned token violate `c`."""

    def make(
        count: int,
        length: int = 4,
        *,
        seed: int = 0,
        prefix_labels: bool = True,
        asked: int = 0,
        on_policy: bool = True,
    ) -> list[ReadEvidence]:
        random = torch.Generator().manual_seed(seed)
        rows = torch.randint(VOCABULARY, (count, length), generator=random).tolist()
        made = []
        for row in rows:
            clean = [float(BANNED not in row[:end]) for end in range(length + 1)]
            prefix_scores = tuple(clean) if prefix_labels and not clean[-1] else None
            item = ReadEvidence(
                Evidence((1,), tuple(row), {"c": Verdict(clean[-1], prefix_scores)}, on_policy=on_policy), None
            )
            if asked:
                item.asked_C = torch.randperm(length, generator=random)[:asked].sort().values.tolist()
                log_p_CV = torch.full((len(item.asked_C), VOCABULARY), 1 / VOCABULARY).log()
                item.tokens_CK, item.log_p_CK = likely_tokens(log_p_CV, random)
            made.append(item)
        return made

    return make
