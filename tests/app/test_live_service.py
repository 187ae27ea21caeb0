"""What a Service that exists says of the controller that should have made its balancer."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affinity_tester.app.clouds import CLOUDS
from affinity_tester.app.live_service import AWS_CLASSES, AWS_FINALIZERS, controller_doubts, refuse_another_type
from affinity_tester.errors import UserError

PREFIX = "service.beta.kubernetes.io/aws-load-balancer-"


def live(
    *,
    kind: str | None = "external",
    finalizers: tuple[str, ...] = (),
    hostname: str | None = None,
    families: tuple[str, ...] = ("IPv4",),
    address_type: str | None = None,
    load_balancer_class: str | None = None,
) -> dict[str, Any]:
    """A Service, with the fields as the API server has them."""
    annotations = {f"{PREFIX}type": kind, f"{PREFIX}ip-address-type": address_type}
    return {
        "kind": "Service",
        "metadata": {
            "annotations": {name: value for name, value in annotations.items() if value is not None},
            "finalizers": list(finalizers),
        },
        "spec": {"ipFamilies": list(families)}
        | ({"loadBalancerClass": load_balancer_class} if load_balancer_class else {}),
        "status": {"loadBalancer": {"ingress": [{"hostname": hostname}]} if hostname else {}},
    }


NOBODY = "No controller has taken the Service yet "
NO_PLAN = "AWS' controller makes no balancer for the Service: its event FailedBuildModel says why"
OTHERS = "The Service's address is not from the AWS Load Balancer Controller or EKS Auto Mode"
IPV6 = "The cluster gave the Service an IPv6 address, and its balancer is IPv4 alone"
IN_TREE = "service.kubernetes.io/load-balancer-cleanup"
"""The finalizer of the provider that is built into Kubernetes, which it puts even on Services that it then leaves alone."""


@pytest.mark.parametrize(
    ("service", "said"),
    [
        (live(), NOBODY),
        (live(finalizers=(IN_TREE,)), NOBODY),
        (live(load_balancer_class="example.com/other"), NOBODY),
        *((live(load_balancer_class=each), NO_PLAN) for each in AWS_CLASSES),
        (live(hostname="x.elb.amazonaws.com"), OTHERS),
        (live(hostname="x.elb.amazonaws.com", finalizers=(IN_TREE,)), OTHERS),
        (live(families=("IPv6",)), IPV6),
        (live(families=("IPv6",), load_balancer_class="service.k8s.aws/nlb"), IPV6),
        (live(families=("IPv4", "IPv6"), address_type="ipv4"), IPV6),
        (live(families=("IPv6",), address_type="dualstack"), NOBODY),
    ],
)
def test_what_is_wrong_is_said(service: dict[str, Any], said: str) -> None:
    (line,) = controller_doubts(service)
    assert line.startswith(said)


@pytest.mark.parametrize(
    "service",
    [
        *(live(finalizers=(IN_TREE, each), hostname="x.elb.amazonaws.com") for each in sorted(AWS_FINALIZERS)),
        live(finalizers=("service.k8s.aws/resources",)),  # at work
        live(finalizers=("service.k8s.aws/resources",), families=("IPv6",), address_type="dualstack"),
        # Of no Service that CLOUD=aws has not made.
        live(kind=None),
        live(kind="nlb", hostname="x.elb.amazonaws.com"),
        live(kind=None, families=("IPv6",)),
    ],
)
def test_of_others_nothing_is_said(service: dict[str, Any]) -> None:
    assert controller_doubts(service) == []


def test_one_line_at_most_and_none_of_a_balancer_that_the_controller_has_made() -> None:
    """All combinations: whoever has finalizer and address is never doubted, whatever else is on the Service."""
    choices = itertools.product(
        (None, "nlb", "external"),
        ((), (IN_TREE,), *((each,) for each in sorted(AWS_FINALIZERS))),
        (None, "x.elb.amazonaws.com"),
        (("IPv4",), ("IPv6",), ("IPv4", "IPv6")),
        (None, "ipv4", "dualstack"),
        (None, "other", *AWS_CLASSES),
    )
    for kind, finalizers, hostname, families, address_type, load_balancer_class in choices:
        said = controller_doubts(
            live(
                kind=kind,
                finalizers=finalizers,
                hostname=hostname,
                families=families,
                address_type=address_type,
                load_balancer_class=load_balancer_class,
            )
        )
        made = not AWS_FINALIZERS.isdisjoint(finalizers) and hostname is not None
        assert len(said) <= 1
        assert not (said and made)
        assert not (said and kind != "external")
        assert said or made or kind != "external" or not AWS_FINALIZERS.isdisjoint(finalizers)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("metadata", "spec", "status"), ANY)))
def test_a_service_of_any_shape_is_no_bug(service: dict[str, Any]) -> None:
    assert controller_doubts(service) == []


@given(ANY, ANY, ANY)
def test_nor_one_whose_parts_have_another_shape(finalizers: object, families: object, ingress: object) -> None:
    service = live()
    service["metadata"]["finalizers"] = finalizers
    service["spec"] = {"ipFamilies": families, "loadBalancerClass": families}
    service["status"] = {"loadBalancer": ingress}
    assert len(controller_doubts(service)) == 1


BEGUN = [
    {"finalizers": (IN_TREE,)},
    {"finalizers": ("service.k8s.aws/resources",)},
    {"hostname": "x.elb.amazonaws.com"},
]


@pytest.mark.parametrize("begun", BEGUN)
@pytest.mark.parametrize("kind", [None, "nlb"])
def test_a_balancer_of_another_controller_is_not_handed_on(kind: str | None, begun: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"was made without CLOUD=aws, .*: delete it first \('kubectl delete service "):
        refuse_another_type(live(kind=kind, **begun), "aws")
    for cloud in set(CLOUDS) - {"aws"}:
        refuse_another_type(live(kind=kind, **begun), cloud)


@pytest.mark.parametrize("begun", BEGUN)
@pytest.mark.parametrize("cloud", [each for each in CLOUDS if each != "aws"])
def test_nor_back(cloud: str, begun: dict[str, Any]) -> None:
    with pytest.raises(
        UserError, match=r"was made with CLOUD=aws, .*: name that cloud again, or delete the Service first"
    ):
        refuse_another_type(live(**begun), cloud)
    refuse_another_type(live(**begun), "aws")


@pytest.mark.parametrize("cloud", CLOUDS)
def test_where_nothing_has_begun_any_type_will_do(cloud: str) -> None:
    for service in ({}, live(), live(kind=None), live(kind="nlb")):
        refuse_another_type(service, cloud)
