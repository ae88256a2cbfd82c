"""Domains of the corpus: which constraints act on a row and how hard, what its loss counts, whether it may move.

method.md §5. A row's domain is its `domain` column ("default" where it has none), a sample's is that of its prompt.

    B batch (rows) · N positions taken together · D domains
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adhere.errors import RecipeError
from adhere.guidance.constraint import Constraint
from adhere.training.method_config import DomainConfig

if TYPE_CHECKING:
    from datasets import Dataset

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class RowWeights:
    """What each row of a batch counts in each part of the loss."""

    corpus_B: Tensor
    reference_B: Tensor  # of KL(reference ‖ p)
    multiplier_B: Mapping[str, Tensor]  # λ, by constraint
    acts_B: Mapping[str, Tensor]  # bool, by constraint: whether it acts on the row at all
    domain_B: Tensor  # number of the row's domain
    told_apart: tuple[str, ...] = ()  # names of the domains where the log tells them apart


PARTS = ("corpus", "learned", "kl", "reference", "held")
"""What is added up by domain: losses and KLs without their weights, and the positions they stand for."""


class DomainSums:
    """Sums over the positions of a micro-batch by domain, for the log; nothing where domains are not told apart."""

    def __init__(self, rows: RowWeights) -> None:
        self._names = rows.told_apart
        self._sums_PD = torch.zeros(len(PARTS), len(self._names), device=rows.domain_B.device)

    def add(self, part: str, domain_N: Tensor, value_N: Tensor) -> None:
        """Add values to the sums of their domains."""
        if self._names:
            self._sums_PD[PARTS.index(part)].index_add_(0, domain_N, value_N.detach().float())

    def by_name(self) -> dict[str, dict[str, float]]:
        """The sums of every domain."""
        return {
            name: dict(zip(PARTS, sums, strict=True))
            for name, sums in zip(self._names, self._sums_PD.T.tolist(), strict=True)
        }


class Domains:
    """The domains of a run by number, and what holds in each.

    Args:
        sections: the settings by domain.
        constraints: of the run.
        rows: the tokenised training rows, with `row` and perhaps `domain`.
        prompted: domains of the prompts, which may have some that no row has.
        reference_kl: weight of KL(reference ‖ p) in domains that have none of their own.

    Raises:
        RecipeError: as `check_domains`.
    """

    def __init__(
        self,
        sections: Mapping[str, DomainConfig],
        constraints: Sequence[Constraint],
        rows: Dataset,
        prompted: Iterable[str],
        reference_kl: float = 0.0,
    ) -> None:
        of_rows, of_prompts = domains_of(rows), set(prompted)
        check_domains(sections, constraints, of_rows, of_prompts)
        self.names = sorted({*of_rows, *of_prompts})
        self._told_apart = tuple(self.names) if sections else ()
        self._constraints = list(constraints)
        self._sections = [sections.get(name, DomainConfig()) for name in self.names]
        own = [section.reference_kl for section in self._sections]
        self._reference_kl = [reference_kl if each is None else each for each in own]
        self._number = {name: number for number, name in enumerate(self.names)}
        self._of_row = {row: self._number[name] for row, name in zip(rows["row"][:], of_rows, strict=True)}

    def acts(self, domain: str, constraint: str) -> bool:
        """True when the constraint acts in a domain."""
        chosen = self._sections[self._number[domain]].constraints
        return chosen is None or constraint in chosen

    @property
    def keeps_some(self) -> bool:
        """True when a domain is held to the reference model."""
        return any(weight > 0 for weight in self._reference_kl)

    def numbers(self, names: Iterable[str]) -> Tensor:
        """Numbers of domains by name."""
        return torch.tensor([self._number[name] for name in names], dtype=torch.long)

    def of_rows(self, row_B: Tensor) -> Tensor:
        """Number of the domain of each corpus row, by the row's own number."""
        return torch.tensor([self._of_row[row] for row in row_B.tolist()], dtype=torch.long, device=row_B.device)

    def weights(self, domain_B: Tensor, ratios: Mapping[str, float]) -> RowWeights:
        """What rows of these domains count.

        Args:
            domain_B: numbers of the rows' domains.
            ratios: by constraint, λ now over its weight: an adaptive λ moves the λ of every domain in proportion.
        """

        def by_row(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=domain_B.device)[domain_B]

        chosen = [section.constraints for section in self._sections]
        multiplier_B, acts_B = {}, {}
        for constraint in self._constraints:
            name = constraint.name
            own = [constraint.weight if each is None else each.get(name, 0.0) for each in chosen]
            multiplier_B[name] = by_row([weight * ratios.get(name, 1.0) for weight in own])
            acts_B[name] = by_row([float(each is None or name in each) for each in chosen]).bool()
        return RowWeights(
            by_row([section.loss_weight for section in self._sections]),
            by_row(self._reference_kl),
            multiplier_B,
            acts_B,
            domain_B,
            self._told_apart,
        )


def domains_of(rows: Dataset) -> list[str]:
    """The domain of every row."""
    if "domain" not in rows.column_names:
        return [DEFAULT] * len(rows)
    return [name or DEFAULT for name in rows["domain"][:]]


def check_domains(
    sections: Mapping[str, DomainConfig], constraints: Sequence[Constraint], rows: Iterable[str], prompts: Iterable[str]
) -> None:
    """Make sure that sections, constraints and domains go together.

    Args:
        rows, prompts: the domains that rows and prompts have.

    Raises:
        RecipeError: a section is of a domain that no row and no prompt has, or names no constraint; a constraint acts
            nowhere, or one whose λ is found has no prompt to be measured on.
    """
    prompted = set(prompts)
    there, names = sorted({*rows, *prompted}), [constraint.name for constraint in constraints]
    for domain, section in sections.items():
        if domain not in there:
            raise RecipeError(f"domains.{domain}: no row and no prompt has this domain{_near(domain, there)}")
        for name in section.constraints or ():
            if name not in names:
                raise RecipeError(
                    f"domains.{domain}.constraints.{name}: no constraint is called so{_near(name, names)}"
                )
    for constraint in constraints:
        chosen = {domain: sections.get(domain, DomainConfig()).constraints for domain in there}
        acting = {domain for domain, each in chosen.items() if each is None or constraint.name in each}
        if not acting:
            raise RecipeError(
                f"constraint {constraint.name!r} acts in no domain: name it in one of domains.*.constraints"
            )
        if constraint.adaptive and not acting & prompted:
            raise RecipeError(
                f"constraint {constraint.name!r} has multiplier dual, and no prompt is of a domain it acts in "
                f"({', '.join(sorted(acting))}): there is nothing to measure it on"
            )


def _near(given: str, there: Sequence[str]) -> str:
    near = difflib.get_close_matches(given, there, 1, 0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    shown = ", ".join(there[:20]) + (", ..." if len(there) > 20 else "")
    return f"{hint} There are: {shown}" if there else hint
