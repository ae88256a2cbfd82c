"""The errors a user can meet, all under one root.

    AdhereError
    ├── RecipeError          the recipe (or a `--set`) says something impossible
    ├── CorpusError          the corpus or the prompts cannot be read or hold nothing to learn from
    ├── ModelError           the model or tokenizer cannot be loaded or does not fit the request
    ├── OracleError          an oracle broke its contract
    │   └── VerdictsMissingError    too many outputs got no verdict: the run is paused
    ├── GuidanceError        the auxiliary model cannot be fitted (for example: all labels are equal)
    ├── RunFolderError       the run folder is in use, damaged, holds another run, or the disk is full
    └── DownloadError        a file of the demo could not be fetched or has the wrong digest

Every message says what was given, what is allowed and where to change it. The command line prints the message alone and
exits with 2 for these; anything else is a defect of ours and shows its traceback.
"""

from __future__ import annotations


class AdhereError(Exception):
    """Root of everything `adhere` raises on purpose."""


class RecipeError(AdhereError):
    """A recipe or a command-line setting that cannot be carried out."""


class CorpusError(AdhereError):
    """A corpus or prompt file that cannot be read, or has nothing to learn from."""


class ModelError(AdhereError):
    """A model or tokenizer that cannot be loaded, or that does not fit the request."""


class OracleError(AdhereError):
    """An oracle that raised, returned the wrong count, or a score outside [0, 1]."""


class VerdictsMissingError(OracleError):
    """Too many outputs without a verdict to learn from those that have one: the run stops here and can be resumed."""


class GuidanceError(AdhereError):
    """Labelled samples from which no auxiliary model can be fitted."""


class RunFolderError(AdhereError):
    """A run folder that is in use, damaged, holds another run, or cannot be written."""


class DownloadError(AdhereError):
    """A file of the demo that could not be fetched, or whose digest is wrong."""
