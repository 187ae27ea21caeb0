"""The objects that experiments make, from the same manifests as `make` applies (k8s/)."""

from __future__ import annotations

import contextlib
from typing import Any

from affinity_tester.app.manifests import read_settings, render
from affinity_tester.cluster.api import Api, ApiError, read_page


async def read_provider_id(api: Api) -> str:
    """Return the providerID of a node, which says which cloud it is; empty where it is not known."""
    with contextlib.suppress(ApiError):
        page = await read_page(api, "/api/v1/nodes", (), 1)
        for node in page.items:
            if isinstance(node, dict):
                return str((node.get("spec") or {}).get("providerID") or "")
    return ""


def service_object(policy: str, affinity: str, provider_id: str) -> dict[str, Any]:
    """Return the Service of a policy and an affinity, with the annotations that the nodes' cloud wants."""
    return manifest_object("service", {"POLICY": policy, "AFFINITY": affinity, "PROVIDER_ID": provider_id})


def manifest_object(manifest: str, settings: dict[str, str]) -> dict[str, Any]:
    """Return the one object of a manifest as JSON values. Raises `UserError`."""
    import yaml  # noqa: PLC0415 - only some experiments need it

    (text,) = render(manifest, read_settings(manifest, settings), lambda: b"")
    found: dict[str, Any] = yaml.safe_load(text)
    return found
