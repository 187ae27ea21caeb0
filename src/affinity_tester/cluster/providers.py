"""The clouds that nodes run on, by their `spec.providerID`."""

from __future__ import annotations

PROVIDER_PREFIXES = {
    "aws:": "aws",
    "azure:": "azure",
    "gce:": "gke",
    "oci:": "oci",
    "ocid1.": "oci",
    "digitalocean:": "digitalocean",
}
"""How a node's `spec.providerID` begins, by its cloud."""


def cloud_of(provider_id: str) -> str:
    """Return the cloud of a node's providerID; "none" if it is of none that is known here."""
    return next((cloud for prefix, cloud in PROVIDER_PREFIXES.items() if provider_id.startswith(prefix)), "none")
