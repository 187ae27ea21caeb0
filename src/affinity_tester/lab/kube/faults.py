"""What a lab's cluster may do wrong: known faults of proxies and balancers, each a switch of the data plane."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from affinity_tester.errors import UserError
from affinity_tester.units import parse_duration


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """The faults of a data plane; without any it does what real kube-proxy was measured to do."""

    flush_on_change: bool = False
    stale_entries: bool = False
    early_flush: bool = False
    proxy_restart_flush: bool = False
    policy_flush: bool = False
    spray: bool = False
    node_join_rehash: bool = False
    conntrack_timeout_ns: int | None = None
    """When flows are forgotten; None: after the kernel's own times."""


class FaultEntry(NamedTuple):
    """A fault that can be chosen by name."""

    field: str
    text: str
    """What it does, with the case that it is known from."""


FAULTS = {
    "flush-on-change": FaultEntry(
        "flush_on_change",
        "a change of the endpoints drops all live flows of the Service (kubernetes/kubernetes#113859)",
    ),
    "stale-entries": FaultEntry(
        "stale_entries",
        "entries of a pod that is gone stay for as long as they are used (kubernetes/kubernetes#105657)",
    ),
    "early-flush": FaultEntry(
        "early_flush", "flows leave a pod that serves and is not ready (kubernetes/kubernetes#137986, #138092)"
    ),
    "proxy-restart-flush": FaultEntry(
        "proxy_restart_flush", "a proxy that starts drops all flows of its node (kubernetes/kubernetes#120076)"
    ),
    "policy-flush": FaultEntry(
        "policy_flush", "a change of the Service's policy or affinity drops all its live flows; kube-proxy keeps them"
    ),
    "spray": FaultEntry("spray", "each packet goes to any pod: there is no flow table (projectcalico/felix#3067)"),
    "conntrack-timeout": FaultEntry(
        "conntrack_timeout_ns", "flows are forgotten after this time without a packet, as in conntrack-timeout=10s"
    ),
    "node-join-rehash": FaultEntry(
        "node_join_rehash", "the balancer hashes its flows anew when nodes join or leave (Azure/AKS#5888)"
    ),
}


def read_faults(given: Iterable[str]) -> Faults:
    """Return the faults of texts as `NAME` or `NAME=VALUE`. Raises `UserError`."""
    faults = Faults()
    for each in given:
        name, sign, value = each.partition("=")
        entry = FAULTS.get(name)
        if entry is None:
            raise UserError(f"--fault {name!r} is unknown: take one of {', '.join(FAULTS)}")
        if name == "conntrack-timeout":
            faults = replace(faults, conntrack_timeout_ns=_timeout(each, value))
        elif sign:
            raise UserError(f"--fault {name} takes no value")
        else:
            faults = replace(faults, **{entry.field: True})
    return faults


def _timeout(given: str, value: str) -> int:
    try:
        found = parse_duration(value)
    except ValueError:
        found = 0
    if not found:
        raise UserError(f"--fault {given}: write the time, as in conntrack-timeout=10s")
    return found
