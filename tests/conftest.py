"""What several tests share: one thread, examples that are the same every time, and a Llama of a few thousand weights."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

# Read by torch when it is first imported, which is later than this: sums are taken in one order, workers do not compete.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

# A shell that runs the tests in the background (`make test &`) has them ignore Ctrl-C, and so what they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("adhere", deadline=None, derandomize=True)
settings.load_profile("adhere")

CHARACTERS = "abcdefghijklmnopqrstuvwxyz .,!?"


@pytest.fixture
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """31 characters and EOS (id 31), each a token; no BOS, no pad token."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {character: number for number, character in enumerate(CHARACTERS)} | {"<eos>": len(CHARACTERS)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", clean_up_tokenization_spaces=False)


@pytest.fixture
def tiny_model() -> LlamaForCausalLM:
    """A Llama over the tokens of `tiny_tokenizer`: width 16, 2 layers, 64 positions, probabilities far from uniform."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(CHARACTERS) + 1, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, initializer_range=0.3, bos_token_id=None,
        eos_token_id=len(CHARACTERS), pad_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


@pytest.fixture
def tiny_policy_folder(tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    """Both, saved as transformers saves them."""
    folder = tmp_path / "tiny-policy"
    tiny_model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@dataclass
class Asked:
    """A request that came in: `number` counts from 0; one without a body has None for it."""

    number: int
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Reply:
    """An answer; `body` is JSON unless it is bytes. With `raw` it is written to the connection as it is, then closed."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    raw: Callable[[socket], None] | None = None


@dataclass
class LocalService:
    """A real HTTP server on this machine that answers as a test wants, and remembers what it was asked."""

    url: str
    asked: list[Asked] = field(default_factory=list)
    answer: Callable[[Asked], Any] = lambda asked: {}  # JSON, or a Reply
    reply: type[Reply] = Reply  # so that tests need not import it


def _handler(service: LocalService, lock: threading.Lock) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with lock:
                asked = Asked(len(service.asked), self.path, dict(self.headers), json.loads(content or b"null"))
                service.asked.append(asked)
            said = service.answer(asked)
            reply = said if isinstance(said, Reply) else Reply(body=said)
            if reply.raw is not None:
                self.close_connection = True
                reply.raw(self.connection)
                return
            body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def handle(self) -> None:
            with suppress(OSError):  # who asked has gone
                super().handle()

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


@contextmanager
def _served() -> Iterator[LocalService]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            patch.delenv(name, raising=False)
        service = LocalService("")
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(service, threading.Lock()))
        server.daemon_threads = True
        server.block_on_close = False
        service.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield service
        server.shutdown()
        server.server_close()
        thread.join(5)


@pytest.fixture
def local_service() -> Iterator[LocalService]:
    """A server that answers `{}` until a test says otherwise."""
    with _served() as service:
        yield service


@pytest.fixture(scope="module")
def module_service() -> Iterator[LocalService]:
    """The same, for all tests of a file."""
    with _served() as service:
        yield service
