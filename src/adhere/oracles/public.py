"""What a recipe may say of a service: addresses, headers and requests that hold no secret, and the variable that holds it.

What is refused is not repeated, since it may be the key itself.
"""

from __future__ import annotations

import re
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator

_SECRET = re.compile(r"key|token|secret|password|auth|signature|cookie", re.IGNORECASE)
_SECRET_IN_A_REQUEST = re.compile(r"(^|[_-])(api_?key|key|token|secret|password|authorization)$", re.IGNORECASE)
_KEY = re.compile(r"\b(sk-[\w-]{16,}|AIza[\w-]{30,}|(hf|gh[opsu]|xox[abp])[_-][\w-]{16,}|Bearer [\w.~+/-]{8,})")
"""Keys as well-known services give them out."""


def check_key_variable(name: str) -> str:
    """The name of an environment variable. Raises ValueError where it cannot be one, without repeating it."""
    # Whatever stands here wrongly may be the key itself, so no message repeats it.
    if not re.fullmatch(r"[A-Z][A-Z0-9_]{0,63}", name):
        raise ValueError(
            "must be the name of an environment variable in capitals, such as OPENAI_API_KEY, never the key itself (what "
            "was given is not repeated here)"
        )
    return name


def public_host(url: str) -> str:
    """Host and port of an address, without the user and password that may stand before them."""
    return urlsplit(url).netloc.rpartition("@")[2]


def secrets_in(url: str) -> list[str]:
    """What an address holds that no message may repeat; a recipe refuses such an address, a program may build it."""
    parts = urlsplit(url)
    named = [value for name, value in parse_qsl(parts.query) if _SECRET.search(name)]
    return [secret for secret in (parts.password, parts.username, *named) if secret]


def _address(url: str) -> str:
    try:
        parts = urlsplit(url)
        wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment
        secret = parts.username or parts.password or any(_SECRET.search(name) for name, _ in parse_qsl(parts.query))
    except ValueError:
        wrong, secret = True, None
    if secret or _KEY.search(url):
        raise ValueError(
            "holds a secret (a user, or a parameter such as key=), and recipes do not: name the environment variable that "
            "holds it as key_variable (the address is not repeated here)"
        )
    if wrong:
        raise ValueError("must be an address such as https://api.openai.com/v1/moderations")
    return url


def _public_headers(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or not (value.isascii() and value.isprintable()):
            raise ValueError(
                f"{name!r} is no header that can be sent: letters, digits and hyphens, and text on one line"
            )
        if _SECRET.search(name) or _KEY.search(value):
            raise ValueError(
                f"{name!r} looks like a secret, and recipes hold none: name the environment variable that holds it as "
                "key_variable, and the header as key_header"
            )
    return headers


def _short_prefix(prefix: str) -> str:
    if len(prefix) > 16 or not (prefix.isascii() and prefix.isprintable()):
        raise ValueError(
            "must be a word such as 'Bearer ', not the key itself: name the environment variable that holds it as "
            "key_variable (what was given is not repeated here)"
        )
    return prefix


def _public_request(request: Any, name: str = "") -> Any:
    parts = request.items() if isinstance(request, dict) else enumerate(request) if isinstance(request, list) else ()
    for key, part in parts:
        _public_request(part, str(key) if isinstance(request, dict) else name)
    if not isinstance(request, str):
        return request
    if _KEY.search(request) or (_SECRET_IN_A_REQUEST.search(name) and "{output" not in request):
        raise ValueError(
            f"{name or 'a text in it'!r} looks like a secret, and recipes hold none: name the environment variable that "
            "holds it as key_variable (what was given is not repeated here)"
        )
    return request


KeyVariable = Annotated[str, AfterValidator(check_key_variable)]
Address = Annotated[str, AfterValidator(_address)]
KeyPrefix = Annotated[str, AfterValidator(_short_prefix)]
Headers = Annotated[dict[str, str], AfterValidator(_public_headers)]
NoSecrets = AfterValidator(_public_request)
PublicJson = Annotated[Any, NoSecrets]
