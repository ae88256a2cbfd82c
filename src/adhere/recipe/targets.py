"""What a finished run says of the targets for which λ was found."""

from __future__ import annotations

import json
from pathlib import Path


def target_sentences(folder: Path) -> list[str]:
    """A sentence for each; none of a run that had none, or that has not ended."""
    from adhere.training.adaptation import TARGETS

    try:
        return [str(said["sentence"]) for said in json.loads((folder / TARGETS).read_text(encoding="utf-8"))]
    except (OSError, ValueError, KeyError, TypeError):
        return []
