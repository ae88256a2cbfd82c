"""Fine-tune a language model on your corpus, and have its outputs adhere to a rule you can check.

The public names are loaded when first used, so that `import adhere` (and `adhere --help`) does not pay for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adhere.guidance.constraint import Constraint
    from adhere.oracles.base import Oracle
    from adhere.training.config import ConstrainedConfig
    from adhere.training.trainer import ConstrainedTrainer

__version__ = "0.1.0"

__all__ = ["ConstrainedConfig", "ConstrainedTrainer", "Constraint", "Oracle", "__version__"]

_MODULE_OF = {
    "ConstrainedConfig": "adhere.training.config",
    "ConstrainedTrainer": "adhere.training.trainer",
    "Constraint": "adhere.guidance.constraint",
    "Oracle": "adhere.oracles.base",
}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}")
    value: object = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
