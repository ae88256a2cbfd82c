"""The errors a user can meet, all under one root.

    AdhereError
    ├── RecipeError          the recipe (or a `--set`) says something impossible
    ├── CorpusError          the corpus or the prompts cannot be read or hold nothing to learn from
    ├── ModelError           the model or tokenizer cannot be loaded or does not fit the request
    ├── OracleError          an oracle broke its contract
    │   └── VerdictsMissingError    too many outputs got no verdict: the run is paused
    ├── SamplingError        what draws the outputs cannot be reached, serves another model, or draws otherwise than p
    ├── GuidanceError        the auxiliary model cannot be fitted (for example: all labels are equal)
    ├── RefreshError         a refresh of guidance elsewhere died, hung or failed, so often that the run stopped
    ├── HealthError          training, guidance or the outputs went wrong: the run stopped with a checkpoint
    ├── PeerError            another of the processes that train together has stopped, and said why
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


class SamplingError(AdhereError):
    """A sampling server (or vLLM here) that cannot be used, or that does not draw from the policy."""


class GuidanceError(AdhereError):
    """Labelled samples from which no auxiliary model can be fitted."""


class RefreshError(AdhereError):
    """A refresh that failed where it ran, in a way that another attempt may mend; at the end of a run, one too many."""


class HealthError(AdhereError):
    """Training, guidance or the policy's outputs went wrong in a way that the recipe (`health`) says to stop at."""


class PeerError(AdhereError):
    """Another of the processes that train one model together has stopped, and with it this one."""


class RunFolderError(AdhereError):
    """A run folder that is in use, damaged, holds another run, or cannot be written."""


class DownloadError(AdhereError):
    """A file of the demo that could not be fetched, or whose digest is wrong."""
