"""How a service is reached: by the proxy that the environment names, and with no password that it did not ask us for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adhere.errors import OracleError
from adhere.oracles import EndpointOracle, LimitsConfig, judge
from adhere.oracles.line import proxy_for


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("environment", "url", "proxy"),
    [
        ({}, "https://x.org/v1", None),
        ({"HTTPS_PROXY": "http://p:1"}, "https://x.org/v1", "http://p:1"),
        ({"HTTPS_PROXY": "p:1"}, "https://x.org/v1", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1"}, "http://x.org/v1", None),
        ({"ALL_PROXY": "http://p:1"}, "http://x.org/v1", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "y.org,x.org"}, "https://x.org/v1", None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "x.org"}, "https://user:word@x.org:8000/v1", None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "x.org"}, "https://x.org.evil.com/v1", "http://p:1"),
    ],
)
def test_the_proxy_is_the_environments(
    environment: dict[str, str], url: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(url) == proxy


@pytest.mark.parametrize("proxy", ["socks5://p:1", "http://", "http://p:99999", "::::", "http://me:pass-word@p:x"])
def test_a_proxy_that_cannot_be_asked_is_named_once_and_not_waited_for(
    proxy: str, local_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    oracle = EndpointOracle(local_service.url, "{output}", "s", "satisfied", name="remote")
    with pytest.raises(
        OracleError, match=r"oracle 'remote': the environment names a proxy .*SOCKS.*NO_PROXY"
    ) as caught:
        judge(oracle, [""], ["text"])
    assert "pass-word" not in str(caught.value)
    assert not local_service.asked


def test_a_request_goes_through_the_proxy(local_service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is here the service itself: a proxy is asked for the whole address."""
    monkeypatch.setenv("HTTP_PROXY", local_service.url)
    local_service.answer = lambda asked: {"s": 1.0}
    oracle = EndpointOracle("http://service.invalid/v1", "{output}", "s", "satisfied", limits=LimitsConfig(attempts=1))
    assert judge(oracle, [""], ["text"]) == [1.0]
    oracle.close()
    assert [asked.path for asked in local_service.asked] == ["http://service.invalid/v1"]


def test_a_service_that_cannot_be_trusted_is_told_from_one_that_is_not_there(local_service: Any) -> None:
    url = local_service.url.replace("http:", "https:")
    oracle = EndpointOracle(url, "{output}", "s", "satisfied", name="remote")
    with pytest.raises(OracleError, match=r"oracle 'remote': 127\.0\.0\.1:\d+ refuses: no TLS, or a certificate"):
        judge(oracle, [""], ["text"])
    oracle.close()


def test_passwords_of_other_programs_are_not_sent(
    local_service: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password word\n", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    local_service.answer = lambda asked: local_service.reply(body={"s": 1.0}, headers={"Set-Cookie": "a=b"})
    oracle = EndpointOracle(local_service.url, "{output}", "s", "satisfied", limits=LimitsConfig(concurrency=1))
    assert judge(oracle, [""] * 2, ["one", "two"]) == [1.0, 1.0]
    oracle.close()
    assert not any({"Authorization", "Cookie"} & set(asked.headers) for asked in local_service.asked)


def test_a_text_of_megabytes_is_sent_whole(local_service: Any) -> None:
    local_service.answer = lambda asked: {"s": float(len(asked.body) == 3_000_000)}
    oracle = EndpointOracle(local_service.url, "{output}", "s", "satisfied", limits=LimitsConfig(attempts=2))
    assert judge(oracle, [""], ["x" * 3_000_000]) == [1.0]
    oracle.close()
