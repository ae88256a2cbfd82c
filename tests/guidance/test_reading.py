from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from adhere.guidance.reading import satisfaction_by_token
from adhere.models.frozen import FrozenModel, hidden_states
from adhere.models.nado import Nado, build_nado
from adhere.models.nado_config import NadoConfig

OUTPUTS = [((1, 2), (3, 4, 5)), ((6,), (1,)), ((2, 2, 2), (5, 4))]


@pytest.fixture(scope="module")
def reference() -> FrozenModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=8, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, max_position_embeddings=16,
        )  # fmt: skip
        return FrozenModel(LlamaForCausalLM(config))


def _nado(reference: FrozenModel, shape: str) -> Nado:
    nado = build_nado(NadoConfig(shape=shape, width=8, heads=2, rank=4), reference.embeddings_VD, seed=0)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for weight in nado.parameters():  # a fresh one says the same of everything
            weight.normal_(0, 0.5)
    return nado.eval()


@pytest.mark.parametrize("shape", ["frozen", "own"])
def test_every_token_gets_the_r_that_tilts_its_choice(reference: FrozenModel, shape: str) -> None:
    nado = _nado(reference, shape)
    told = satisfaction_by_token(nado, reference, OUTPUTS)
    assert [len(r) for r in told] == [3, 1, 2]
    for (prompt, output), r in zip(OUTPUTS, told, strict=True):
        for place, token in enumerate(output):
            prefix_1T = torch.tensor([[*prompt, *output[:place]]])
            with torch.no_grad(), reference.lent() as model:
                ones_1T = torch.ones_like(prefix_1T)
                features = prefix_1T if nado.reads_tokens else hidden_states(model, prefix_1T, ones_1T)
                state = nado(features, ones_1T)
                logit_V = nado.next_logits(state.value_BT[:, -1], state.key_BTR[:, -1])[0]
            assert r[place] == pytest.approx(float(logit_V[token].sigmoid()), abs=1e-5)


def test_the_batch_changes_nothing(reference: FrozenModel) -> None:
    nado = _nado(reference, "frozen")
    together, apart = (satisfaction_by_token(nado, reference, OUTPUTS, batch_size=size) for size in (16, 1))
    for one, other in zip(together, apart, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
