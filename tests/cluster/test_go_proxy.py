"""Proxies by the rules of kubectl: the first table has the cases of Go's own test (golang.org/x/net/http/httpproxy)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affinity_tester.cluster.go_proxy import proxy_of

NO_PROXY = (
    "foobar.com, .barbaz.net, *.wildcard.io, 192.168.1.1, 192.168.1.2:81, 192.168.1.3:80, 10.0.0.0/30, "
    "2001:db8::52:0:1, [2001:db8::52:0:2]:443, [2001:db8::52:0:3]:80, 2002:db8:a::45/64"
)


@pytest.mark.parametrize(
    ("host", "by_proxy"),
    [
        ("localhost", False),
        ("127.0.0.1", False),
        ("127.0.0.2", False),
        ("[::1]", False),
        ("[::2]", True),
        ("192.168.1.1", False),
        ("192.168.1.2", True),  # another port
        ("192.168.1.3", False),
        ("192.168.1.4", True),
        ("10.0.0.2", False),
        ("10.0.0.4", True),
        ("[2001:db8::52:0:1]", False),
        ("[2001:db8::52:0:2]", True),
        ("[2001:db8::52:0:3]", False),
        ("[2002:db8:a::123]", False),
        ("[fe80::424b:c8be:1643:a1b6]", True),
        ("barbaz.net", True),
        ("www.barbaz.net", False),
        ("foobar.com", False),
        ("www.foobar.com", False),
        ("FOOBAR.com", False),
        ("foofoobar.com", True),
        ("baz.com", True),
        ("localhost.net", True),
        ("local.localhost", True),
        ("barbarbaz.net", True),
        ("wildcard.io", True),
        ("nested.wildcard.io", False),
        ("awildcard.io", True),
    ],
)
def test_no_proxy(host: str, by_proxy: bool) -> None:
    found = proxy_of(f"http://{host}/", {"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": NO_PROXY})
    assert found == ("http://proxy:3128" if by_proxy else None)


@pytest.mark.parametrize(
    ("url", "environ", "proxy"),
    [
        ("https://api:6443", {"HTTPS_PROXY": "http://u:p@proxy:3128"}, "http://u:p@proxy:3128"),
        ("https://api:6443", {"https_proxy": "proxy:3128"}, "http://proxy:3128"),
        ("https://api:6443", {"HTTPS_PROXY": "http://upper", "https_proxy": "http://lower"}, "http://upper"),
        ("https://api:6443", {"HTTP_PROXY": "http://proxy"}, None),
        ("http://api:6443", {"HTTPS_PROXY": "http://proxy"}, None),
        ("http://api:6443", {"HTTP_PROXY": "http://proxy", "REQUEST_METHOD": "GET"}, None),
        ("https://api:6443", {"HTTPS_PROXY": "socks5://proxy:1080"}, "socks5://proxy:1080"),
        ("https://api:6443", {"HTTPS_PROXY": "http://proxy", "no_proxy": "*"}, None),
        ("https://api:6443", {"HTTPS_PROXY": "http://proxy", "no_proxy": "api:6443"}, None),
        ("https://api", {"HTTPS_PROXY": "http://proxy", "no_proxy": "api:443"}, None),
        ("https://api", {"HTTPS_PROXY": "http://proxy", "no_proxy": "api:6443"}, "http://proxy"),
        ("https://api", {"HTTPS_PROXY": "http://proxy", "no_proxy": ":443,,[::1]"}, "http://proxy"),
        ("https://10.0.0.1", {"HTTPS_PROXY": "http://proxy", "no_proxy": "10.0.0.0/255.0.0.0"}, "http://proxy"),
        ("https://10.9.9.9", {"HTTPS_PROXY": "http://proxy", "no_proxy": "10.1.2.3/8"}, None),
        ("https://10.9.9.9", {"HTTPS_PROXY": "http://proxy", "no_proxy": "10.1.2.3/99"}, "http://proxy"),
        ("https://[::ffff:10.9.9.9]", {"HTTPS_PROXY": "http://proxy", "no_proxy": "10.0.0.0/8"}, None),
        ("https://api", {"HTTPS_PROXY": " "}, None),
        ("ftp://api", {"FTP_PROXY": "http://proxy"}, None),
        ("https://api:no", {"HTTPS_PROXY": "http://proxy"}, None),
        ("https://api", {}, None),
    ],
)
def test_which_proxy(url: str, environ: dict[str, str], proxy: str | None) -> None:
    assert proxy_of(url, environ) == proxy


@given(st.text(), st.text(), st.text())
def test_no_text_is_too_odd(url: str, proxy: str, no_proxy: str) -> None:
    environ = {"HTTPS_PROXY": proxy, "NO_PROXY": no_proxy}
    for each in (url, f"https://{url}", "https://10.1.2.3:6443"):
        proxy_of(each, environ)
