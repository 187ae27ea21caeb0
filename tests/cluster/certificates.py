"""Certificates for tests, made by openssl: a CA, and what it signed for a name and a time."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Authority:
    """A CA in a folder."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self.certificate = folder / f"{name}.crt"
        self._key = folder / f"{name}.key"
        usage = ("-addext", "keyUsage=critical,keyCertSign")
        _openssl(
            *("req", "-x509", *_KEY, "-days", "2", "-subj", f"/CN={name}", *usage),
            *("-keyout", self._key, "-out", self.certificate),
        )

    def sign(self, name: str, subject: str = "IP:127.0.0.1", days: int = 2) -> tuple[Path, Path]:
        """Make a certificate for a subjectAltName: (certificate, key). One of -1 days has expired."""
        request, certificate, key = (self.folder / f"{name}.{end}" for end in ("csr", "crt", "key"))
        _openssl(
            *("req", *_KEY, "-subj", f"/CN={name}", "-addext", f"subjectAltName={subject}"),
            *("-keyout", key, "-out", request),
        )
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial"),
            *("-days", days, "-copy_extensions", "copy", "-out", certificate),
        )
        return certificate, key


def server_context(certificate: tuple[Path, Path], *, clients_of: Path | None = None) -> ssl.SSLContext:
    """What a server shows, and which clients it takes: those with a certificate of a CA, or all."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    if clients_of is not None:
        context.load_verify_locations(clients_of)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
