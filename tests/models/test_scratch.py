import torch
from adhere.models.policy import *
from adhere.models.frozen import *
def test_a(tiny_model):
    ids = torch.tensor([[1,2,3]])
    m = add_adapter(tiny_model, peft_config(LoraSection(r=2, alpha=4)))
    print(m.generation_config, m.device, m.dtype, m.config.max_position_embeddings)
    for n,w in m.named_parameters():
        if w.requires_grad and "lora_B" in n: torch.nn.init.normal_(w)
    l = m(ids).logits
    q = m.merge_and_unload()
    print("PC", hasattr(q,"peft_config"), type(q), (q(ids).logits-l).abs().max())
    f = FrozenModel(q)
    with f.lent() as still: print(hidden_states(still, ids, torch.ones_like(ids)).shape)
