"""A sampling server: which models it has, how it wants to be asked, outputs side by side, and new weights while it runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx

from adhere.errors import SamplingError
from adhere.oracles.attempt import Unanswered
from adhere.oracles.remote_config import LimitsConfig, PriceConfig
from adhere.oracles.service import Service
from adhere.oracles.spending import Spending
from adhere.sampling.completions import WAYS, Answer, Manners, read, request

if TYPE_CHECKING:
    from pathlib import Path

    from adhere.sampling.sampler_config import ServerConfig, Weights

_BUDGET = 24 * 3600.0
_CONTROL_SECONDS = 30.0
_ADAPTERS = (
    "start vLLM with --enable-lora (and --max-lora-rank) and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment, and let "
    "sampling.server.folder be one that it can read; with any other server, sampling.server.weights: fixed"
)
_WHOLE = (
    "to give it all weights while it runs start vLLM with VLLM_SERVER_DEV_MODE=1 in its environment (on a network that nobody "
    "else can reach), and let sampling.server.folder be one that it can read; otherwise train an adapter (model.lora), or "
    "use sampling.backend: vllm or transformers"
)


class Server:
    """Talks to the server of a recipe.

    Args:
        config: which, and how.

    Raises:
        SamplingError: the environment variable with the key is not set.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self._base = config.url.rstrip("/").removesuffix("/completions")
        limits = LimitsConfig(
            concurrency=config.concurrency,
            timeout=config.timeout,
            attempts=config.attempts,
            budget=_BUDGET,
            cache=False,
        )
        self._service = Service(
            self._base,
            f"{self._base}/completions",
            limits,
            PriceConfig(),
            Spending(),
            key_variable=config.key_variable,
            role="sampling server",
            error=SamplingError,
        )

    def model(self) -> str:
        """The name of the model to ask for.

        Raises:
            SamplingError: the server cannot be reached, or does not serve it.
        """
        answer = self._control("GET", "/models")
        try:
            served = [str(model["id"]) for model in answer.json()["data"]]
        except (ValueError, KeyError, TypeError):
            raise SamplingError(
                f"sampling server {self._base}: it answers {answer.status_code} to /models and lists no models, so this is "
                "no OpenAI-compatible server; sampling.server.url is its base, up to and with /v1"
            ) from None
        wanted = self.config.model
        if not served or (wanted is not None and wanted not in served):
            raise SamplingError(
                f"sampling server {self._base}: it serves {', '.join(served) or 'nothing'}, not "
                f"{wanted!r}; set sampling.server.model to a model that it serves, or start it with that one"
            )
        return wanted or served[0]

    def manners(self, model: str, text: str, ids: Sequence[int], ends: Sequence[int]) -> Manners:
        """The best way in which it takes a request: tried with one prompt, and one token to write.

        Raises:
            SamplingError: it takes none.
        """
        refused: SamplingError | None = None
        for way in WAYS:
            try:
                self.complete([request(way, model, ids if way.takes_ids else text, 1, 0, ends)])
                return way
            except SamplingError as error:
                refused = refused or error
        assert refused is not None
        raise refused

    def complete(self, bodies: Sequence[dict[str, Any]]) -> list[Answer]:
        """The output for every request, in order, as many side by side as `concurrency` allows.

        Raises:
            SamplingError: one of them did not come, after all attempts; the others are lost with it.
        """
        answers: dict[int, Answer] = {}
        reasons: list[str] = []

        async def ask(number: int, deadline: float) -> None:
            if reasons:
                return  # one is lost already: the rest would be asked for in vain
            try:
                answers[number] = await self._service.answer(bodies[number], read, deadline)
            except Unanswered as error:
                said = " ".join(error.detail.split())[:300]
                reasons.append(f"{error.reason}{f' ({said})' if said else ''}")

        self._service.ask_all(range(len(bodies)), ask)
        if reasons:
            raise SamplingError(
                f"sampling server {self._base}: an output did not come: {reasons[0]}. What was drawn before is on disk: see "
                "that the server is up, and go on with --resume"
            )
        return [answers[number] for number in range(len(bodies))]

    def load_adapter(self, name: str, folder: Path) -> None:
        """Have vLLM serve the adapter in a folder under a name. Raises SamplingError when it does not."""
        self._must("/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)}, _ADAPTERS)

    def unload_adapter(self, name: str) -> None:
        """Have vLLM forget an adapter; that it does not is no harm now."""
        with suppress(SamplingError):
            self._control("POST", "/unload_lora_adapter", {"lora_name": name})

    def reload(self, folder: Path) -> None:
        """Have vLLM read all weights again, from a folder. Raises SamplingError when it does not."""
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
        self._must("/collective_rpc", body, _WHOLE, root=True)
        self._must("/reset_prefix_cache", {}, _WHOLE, root=True)  # it was filled by the weights before

    def require_route(self, way: Weights) -> None:
        """Make sure that it has a way to take new weights: it is asked with nothing to take.

        Raises:
            SamplingError: it has none.
        """
        path, root, advice = (
            ("/load_lora_adapter", False, _ADAPTERS) if way == "adapter" else ("/collective_rpc", True, _WHOLE)
        )
        if (status := self._control("POST", path, {}, root=root).status_code) in (404, 405):
            raise SamplingError(f"sampling server {self._base}: {status} to {path}: {advice}")

    def close(self) -> None:
        """Close connections."""
        self._service.close()

    def _must(self, path: str, body: dict[str, Any], advice: str, *, root: bool = False) -> None:
        answer = self._control("POST", path, body, root=root)
        if answer.status_code != 200:
            said = " ".join(answer.text.split())[:300]
            raise SamplingError(f"sampling server {self._base}: {answer.status_code} to {path} ({said}): {advice}")

    def _control(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, root: bool = False
    ) -> httpx.Response:
        address = (self._base.removesuffix("/v1") if root else self._base) + path
        seconds = self.config.timeout if body is not None else _CONTROL_SECONDS
        start = time.monotonic()
        try:
            return httpx.request(method, address, json=body, headers=self._service.headers(), timeout=seconds)
        except httpx.HTTPError as error:
            raise SamplingError(
                f"sampling server {self._base} cannot be reached at {path} ({type(error).__name__} after "
                f"{time.monotonic() - start:.0f} s): start it, or correct sampling.server.url"
            ) from None
