"""A collated batch made ready for the loss: what each position and each row is, with sampled rows joined to it.

B batch · T time · K constraints
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from adhere.data.collation import IGNORED
from adhere.training.config import ConstrainedConfig
from adhere.training.domains import Domains
from adhere.training.sample_rows import SampleRows, join

BATCH_KEYS = ("input_ids", "attention_mask", "learned", "output", "held", "sampled", "tilted", "log_importance",
              "violates_at", "score")  # fmt: skip
"""What a completed batch holds beside `domain` and `row`: the fields of `loss.Batch`, in order."""


def complete(
    batch: Mapping[str, Tensor],
    number: int,
    config: ConstrainedConfig,
    domains: Domains,
    violating: Tensor,
    known: tuple[Tensor, Tensor],
    sample_rows: SampleRows | None,
    pad_token: int,
) -> dict[str, Tensor]:
    """The masks of the loss, and the sampled rows where the regulariser is to see them.

    Args:
        batch: from the collator, perhaps with the `place` of its rows in the global batch (`processes.placed`): the samples
            of these places are joined to it.
        number: of the micro-batch in the run; it chooses the samples.
        config: positions, and what is done with violating rows.
        domains: of the run's rows and prompts.
        violating: numbers of the corpus rows that violate.
        known: of the batch's rows, which token violates, and the score (`CorpusLabels.violations`).
        sample_rows: samples to draw from; None where only the corpus is held.
        pad_token: what shorter rows are filled with.
    """
    corpus_rows, device = len(batch["row"]), batch["row"].device
    domain_B = domains.of_rows(batch["row"])
    batch = dict(batch)
    places = batch.pop("place", torch.arange(corpus_rows)).tolist()
    rows = {**batch, "log_importance": torch.zeros(corpus_rows, device=device), "domain": domain_B}
    rows |= {"violates_at": known[0].to(device), "score": known[1].to(device)}
    if sample_rows is not None:
        samples = sample_rows.batch(places, config.seed, number)
        rows = join(rows, samples, pad_token) if samples else rows
    learned_BT = torch.zeros_like(rows["labels"], dtype=torch.bool)
    learned_BT[:, :-1] = rows["labels"][:, 1:] != IGNORED
    violating_B = torch.isin(rows["row"], violating.to(device))
    if config.violating_rows == "leave":
        learned_BT &= ~violating_B[:, None]
    output_BT = torch.zeros_like(learned_BT)
    output_BT[:, :-1] = rows["output_mask"][:, 1:].bool()
    sampled_B = torch.arange(len(rows["row"]), device=device) >= corpus_rows
    held_BT = output_BT & sampled_B[:, None] if config.positions == "samples" else output_BT
    return {
        "input_ids": rows["input_ids"],
        "attention_mask": rows["attention_mask"],
        "learned": learned_BT,
        "output": output_BT,
        "held": held_BT,
        "sampled": sampled_B,
        "log_importance": rows["log_importance"],
        "violates_at": rows["violates_at"],
        "score": rows["score"],
        "tilted": violating_B if config.violating_rows == "tilt" else torch.zeros_like(violating_B),
        "domain": rows["domain"],
        "row": rows["row"],
    }
