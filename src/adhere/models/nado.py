"""NADO, the auxiliary model: the chance that an output will satisfy the constraint, for every possible next token.

    logit R(prefix·v) = value(prefix) + ⟨key(prefix), P·e_v⟩ + b·e_v          (method.md §3)

    B batch · T time · V vocabulary · D width of the language model · W width of the trunk · R rank

The bilinear term works on token embeddings, so that what is learned of one token is shared by its neighbours: that is how
it learns from few violations. `key`, `b` and the value's weights start at zero: R starts as the base rate, q* as p.

Departure from the paper: its auxiliary model is a separate small transformer (`shape="own"` here); by default ours is a
small trunk on the hidden states of the frozen model before fine-tuning (`shape="frozen"`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from adhere.models.nado_config import NadoConfig


class NadoState(NamedTuple):
    """What NADO computes of the prefixes, from which R of any next token follows."""

    value_BT: Tensor  # logit of R(prefix)
    key_BTR: Tensor


class Nado(nn.Module):
    """R_φ of one constraint.

    Args:
        config: its shape.
        embeddings_VD: token embeddings of the frozen model: shared, never trained, not saved with the weights.
    """

    embeddings_VD: Tensor

    def __init__(self, config: NadoConfig, embeddings_VD: Tensor) -> None:
        super().__init__()
        if config.width % config.heads:
            raise ValueError(f"nado.heads ({config.heads}) must divide nado.width ({config.width})")
        self.config = config
        width = embeddings_VD.shape[1]
        self.register_buffer("embeddings_VD", embeddings_VD.detach(), persistent=False)
        self._table: tuple[Tensor, Tensor] | None = None
        self.scale = 1.0 / max(float(embeddings_VD.detach().float().std()), 1e-6)
        self.norm_in = nn.LayerNorm(width)
        self.embed = nn.Linear(width, config.width)
        self.blocks = nn.ModuleList(_Block(config.width, config.heads) for _ in range(config.layers))
        self.norm_out = nn.LayerNorm(config.width)
        self.value = nn.Linear(config.width, 1)
        self.key = nn.Linear(config.width, config.rank)
        self.project = nn.Linear(width, config.rank, bias=False)
        self.bias = nn.Linear(width, 1, bias=False)
        for zero in (self.value.weight, self.value.bias, self.key.weight, self.key.bias, self.bias.weight):
            nn.init.zeros_(zero)

    @property
    def reads_tokens(self) -> bool:
        """True when it needs the token ids alone, False when it reads the frozen model's hidden states."""
        return self.config.shape == "own"

    def start_at(self, base_rate: float) -> None:
        """Make R the base rate everywhere, so that q* = p."""
        rate = min(max(base_rate, 1e-3), 1 - 1e-3)
        with torch.no_grad():
            self.value.bias.fill_(torch.logit(torch.tensor(rate)).item())

    def forward(self, features_BTD: Tensor, attention_mask_BT: Tensor) -> NadoState:
        """Read the prefixes.

        Args:
            features_BTD: hidden states of the frozen model, or for `shape="own"` the token ids [B, T].
            attention_mask_BT: 1 on real tokens; padding may be on either side.
        """
        read_BTD = self._embeddings(features_BTD) if self.reads_tokens else features_BTD.float()
        seen_BTT = _causal(attention_mask_BT.bool())
        position_BT = (attention_mask_BT.long().cumsum(1) - 1).clamp_min(0)
        with self._products_as_read(True):
            x_BTW = self.embed(self.norm_in(read_BTD))
            for block in self.blocks:
                x_BTW = block(x_BTW, seen_BTT, position_BT)
        with self._products_as_read(False):
            x_BTW = self.norm_out(x_BTW.float())
            return NadoState(self.value(x_BTW).squeeze(-1), self.key(x_BTW))

    def _products_as_read(self, as_read: bool) -> torch.autocast:
        """The trunk multiplies in bfloat16 where that is what it reads, and what R is told from is float32 always."""
        half = as_read and self.embeddings_VD.dtype == torch.bfloat16
        return torch.autocast(self.embeddings_VD.device.type, torch.bfloat16, enabled=half)

    def token_table(self) -> tuple[Tensor, Tensor]:
        """(P·e_v for every v [V, R], b·e_v [V]), without gradient: the same for all prefixes.

        Kept once NADO is frozen (`freeze`), since it is then the same for all steps too.
        """
        return self._table if self._table is not None else self._table_of(self.embeddings_VD)

    @torch.no_grad()
    def _table_of(self, embeddings_VD: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat([self.project.weight, self.bias.weight]) * self.scale
        table_VR = embeddings_VD @ both.to(embeddings_VD.dtype).T
        return table_VR[..., :-1].float(), table_VR[..., -1].float()

    def freeze(self) -> Nado:
        """No more training: eval mode, no gradients, and the token table computed once."""
        self.eval().requires_grad_(False)
        self._table = None
        self._table = self.token_table()
        return self

    def next_logits(self, value_N: Tensor, key_NR: Tensor) -> Tensor:
        """logit R(prefix·v) for every v, without gradient to the token table: [N, V] in float32."""
        table_VR, bias_V = self.token_table()
        return torch.addmm(bias_V, key_NR, table_VR.T).add_(value_N[:, None])

    @torch.no_grad()
    def logits_among(self, value_C: Tensor, key_CR: Tensor, token_CK: Tensor) -> Tensor:
        """logit R(prefix·v) for some next tokens of every prefix, as `next_logits` has them: [C, K], without gradient."""
        token_U, place_CK = token_CK.unique(return_inverse=True)  # the likely ones are likely in many places
        table_UR, bias_U = self._table_of(self.embeddings_VD[token_U])
        logit_CK: Tensor = (
            torch.linalg.vecdot(table_UR[place_CK], key_CR[:, None]) + bias_U[place_CK] + value_C[:, None]
        )
        return logit_CK

    def logits_of(self, state: NadoState, token_BT: Tensor) -> Tensor:
        """logit R(prefix·token) for one given next token at every position: [B, T]."""
        embedding_BTD = self._embeddings(token_BT)
        bilinear_BT = (state.key_BTR * self.project(embedding_BTD)).sum(-1)
        logit_BT: Tensor = state.value_BT + bilinear_BT + self.bias(embedding_BTD).squeeze(-1)
        return logit_BT

    def _embeddings(self, tokens: Tensor) -> Tensor:
        """Embeddings of these tokens in float32, of unit variance."""
        embeddings: Tensor = self.embeddings_VD[tokens].float() * self.scale
        return embeddings


class _Block(nn.Module):
    """A pre-norm transformer layer with rotary positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x_BTW: Tensor, seen_BTT: Tensor, position_BT: Tensor) -> Tensor:
        batch, time, width = x_BTW.shape
        q, k, v = self.qkv(self.norm_attention(x_BTW)).view(batch, time, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = _rotate(q, position_BT), _rotate(k, position_BT)
        mixed = _attend(q, k, v, seen_BTT)
        x_BTW = x_BTW + self.out(mixed.transpose(1, 2).reshape(batch, time, width))
        x_BTW = x_BTW + self.mlp(self.norm_mlp(x_BTW))
        return x_BTW


def _causal(mask_BT: Tensor) -> Tensor:
    """[B, T, T]: which positions each one sees. A padded position sees itself, so that no row is empty (NaN)."""
    time = mask_BT.shape[1]
    lower_TT = torch.ones(time, time, dtype=torch.bool, device=mask_BT.device).tril()
    return (lower_TT & mask_BT[:, None, :]) | torch.eye(time, dtype=torch.bool, device=mask_BT.device)


def _attend(q_BHTd: Tensor, k_BHTd: Tensor, v_BHTd: Tensor, seen_BTT: Tensor) -> Tensor:
    if q_BHTd.device.type != "cpu":
        return nn.functional.scaled_dot_product_attention(q_BHTd, k_BHTd, v_BHTd, attn_mask=seen_BTT[:, None])
    # The CPU's kernel takes 1.5 times as long in bfloat16, there and back.
    with torch.autocast("cpu", enabled=False):
        return nn.functional.scaled_dot_product_attention(
            q_BHTd.float(), k_BHTd.float(), v_BHTd.float(), attn_mask=seen_BTT[:, None]
        )


def _rotate(x_BHTd: Tensor, position_BT: Tensor) -> Tensor:
    half = x_BHTd.shape[-1] // 2
    frequency = 10_000.0 ** (-torch.arange(half, device=x_BHTd.device) / max(half, 1))
    angle = position_BT[:, None, :, None] * frequency
    cos, sin = angle.cos(), angle.sin()
    a, b, rest = x_BHTd[..., :half], x_BHTd[..., half : 2 * half], x_BHTd[..., 2 * half :]
    return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], -1)


def build_nado(config: NadoConfig, embeddings_VD: Tensor, seed: int) -> Nado:
    """A fresh NADO over these token embeddings, on their device, with initial weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Nado(config, embeddings_VD).to(embeddings_VD.device)  # its weights were drawn on the CPU
