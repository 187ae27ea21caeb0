"""Says why a connection to the API server failed: the network, TLS, certificates. Pure.

TLS fails in many ways that OpenSSL words for its developers. What a user can do differs by what is wrong: the name, the
time, the issuer, the protocol, or the client's own certificate.
"""

from __future__ import annotations

import os
import ssl

from affinity_tester.cluster.api import ApiError
from affinity_tester.cluster.response_errors import one_line

_EXPIRED, _NOT_YET_VALID, _REVOKED = 10, 9, 23
_NAME_MISMATCH = (62, 63, 64)
"""X509_V_ERR_HOSTNAME_MISMATCH, EMAIL_MISMATCH and IP_ADDRESS_MISMATCH of openssl/x509_vfy.h."""
_UNTRUSTED = (2, 18, 19, 20, 21, 27)
"""No issuer found, self-signed, self-signed in the chain, no local issuer, no first signature, not trusted."""

_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "PACKET_LENGTH_TOO_LONG", "UNKNOWN_PROTOCOL")
"""What OpenSSL makes of an answer that is no TLS record: it reads the text as a version and a length."""

CHECK_CA = "get the kubeconfig anew; a proxy that opens TLS needs its CA in certificate-authority"


def certificate_error(error: ssl.SSLCertVerificationError, host: str) -> ApiError:
    """Return the error of a server's certificate that is not accepted. `host` is what the client asked for."""
    code = error.verify_code
    if code in _NAME_MISMATCH:
        return ApiError(
            f"the API server's certificate is for another name than {host}",
            advice="check `server` in the kubeconfig, or set its tls-server-name",
        )
    if code == _EXPIRED:
        return ApiError("the API server's certificate has expired", advice="renew it, or check this machine's clock")
    if code == _NOT_YET_VALID:
        return ApiError("the API server's certificate is not valid yet", advice="check this machine's clock")
    if code in _UNTRUSTED:
        return ApiError("the API server's certificate is signed by a CA that is not trusted here", advice=CHECK_CA)
    said = one_line(error.verify_message or str(error))
    return ApiError(f"the API server's certificate is not accepted ({said})", advice=CHECK_CA)


def tls_error(error: ssl.SSLError, *, has_certificate: bool) -> ApiError:
    """Return the error of a TLS connection that is not about the server's certificate."""
    reason = (error.reason or "").upper()
    if reason in _NO_TLS:
        return ApiError(
            "the API server's port speaks no TLS",
            advice="check the port, or write http:// in `server` of the kubeconfig",
        )
    if "ALERT" in reason and any(word in reason for word in ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED")):
        whose = "the client certificate" if has_certificate else "a client without a certificate"
        return ApiError(
            f"the API server refuses {whose} ({_spoken(reason)})", advice="get the kubeconfig anew, or log in"
        )
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return ApiError("the API server broke off TLS", advice="is something in between that lets no TLS through?")
    said = _spoken(reason) or one_line(str(error))
    return ApiError(f"TLS with the API server fails ({said})", advice="check `server` in the kubeconfig")


def _spoken(reason: str) -> str:
    """Return one of OpenSSL's reasons as words, without the version before them: "alert unknown ca"."""
    words = reason.lower().split("_")
    return " ".join(words[1:] if words and words[0].startswith(("tlsv", "sslv")) else words)


def unreachable(what: str, error: OSError) -> ApiError:
    """Return the error of an address that cannot be connected to."""
    errno = error.errno or 0  # negative: of the name's resolution
    why = os.strerror(errno) if errno > 0 else error.strerror or one_line(str(error)) or "no reason given"
    return ApiError(f"{what} cannot be reached ({why})")
