"""What a Service that exists says of the controller that should have made its balancer.

Clouds other than AWS run that controller for everybody. On AWS somebody installs it, and a Service that it has not taken gets
no address and no event either: nothing says so, for as long as anybody waits.
"""

from __future__ import annotations

import json
from typing import Any

from affinity_tester.errors import UserError

AWS = "service.beta.kubernetes.io/aws-load-balancer-"

AWS_FINALIZERS = frozenset({"service.k8s.aws/resources", "service.eks.amazonaws.com/resources"})
"""What the AWS Load Balancer Controller and EKS Auto Mode put on a Service when they begin to make its balancer.

Source: github.com/kubernetes-sigs/aws-load-balancer-controller, pkg/shared_constants/finalizers.go. It comes after the plan
(controllers/service/service_controller.go, reconcile): a Service for which none can be made has an event instead.
"""

AWS_CLASSES = ("service.k8s.aws/nlb", "eks.amazonaws.com/nlb")
"""The `loadBalancerClass` that they give a Service as it is made; other values leave it to whoever knows them.

Sources: kubernetes-sigs.github.io/aws-load-balancer-controller/latest/guide/service/annotations (Legacy Cloud Provider);
docs.aws.amazon.com/eks/latest/userguide/auto-configure-nlb.
"""


def read_service(text: str) -> dict[str, Any]:
    """Return a Service that `kubectl get service NAME --output=json` printed. Raise `UserError` if it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("kind") != "Service":
        raise UserError("what is read is no Service, as 'kubectl get service NAME --output=json' prints it")
    return found


def controller_doubts(service: dict[str, Any]) -> list[str]:
    """Return why a Service's balancer is not, or will not be, the one that its annotations ask for; a line each.

    True of a Service of type `external`: its address is from one of AWS' controllers if, and only if, it carries that one's
    finalizer. Without an address and a finalizer nobody is at work, or somebody who finds no way and says so in an event; the
    class tells that somebody is there. Nothing is said of another cloud's Service, nor of one that is being worked on.
    """
    metadata, spec = _mapping(service, "metadata"), _mapping(service, "spec")
    annotations = _mapping(metadata, "annotations")
    if annotations.get(f"{AWS}type") != "external":
        return []

    taken = not AWS_FINALIZERS.isdisjoint(_texts(metadata, "finalizers"))
    if _mapping(_mapping(service, "status"), "loadBalancer").get("ingress"):
        other = (
            "The Service's address is not from the AWS Load Balancer Controller or EKS Auto Mode, whose finalizer it has not:"
            " its balancer was made before, or by another. Take it away ('make clean') and apply it again"
        )
        return [] if taken else [other]

    if "IPv6" in _texts(spec, "ipFamilies") and annotations.get(f"{AWS}ip-address-type") != "dualstack":
        return [
            "The cluster gave the Service an IPv6 address, and its balancer is IPv4 alone, for which AWS' controllers make"
            " nothing: apply it again with IP_FAMILY=IPv6"
        ]
    if taken:
        return []
    if spec.get("loadBalancerClass") in AWS_CLASSES:
        return ["AWS' controller makes no balancer for the Service: its event FailedBuildModel says why"]
    return [
        "No controller has taken the Service yet (it has no finalizer of AWS Load Balancer Controller or EKS Auto Mode):"
        " install one (https://kubernetes-sigs.github.io/aws-load-balancer-controller/) or, where one runs, see its event"
        " FailedBuildModel"
    ]


def refuse_another_type(service: dict[str, Any], cloud: str) -> None:
    """Raise `UserError` where settings for a cloud would change the type of a balancer that is there, or is being made.

    On AWS that hands the Service from one controller to another, and what the first one has made stays behind, where nothing
    of Kubernetes finds it again (kubernetes-sigs.github.io/aws-load-balancer-controller/latest/guide/service/nlb,
    Limitations). A type that the settings do not write, like `nlb`, is somebody's own and stays as it is.
    """
    metadata = _mapping(service, "metadata")
    begun = metadata.get("finalizers") or _mapping(_mapping(service, "status"), "loadBalancer").get("ingress")
    was_external = _mapping(metadata, "annotations").get(f"{AWS}type") == "external"
    if not begun or was_external == (cloud == "aws"):
        return
    made, mend = ("with", "name that cloud again, or delete the Service") if was_external else ("without", "delete it")
    raise UserError(
        f"the Service that is there was made {made} CLOUD=aws, and on AWS the type of its balancer must not change: {mend}"
        " first ('kubectl delete service affinity-tester')"
    )


def _mapping(parent: dict[str, Any], key: str) -> dict[str, Any]:
    found = parent.get(key)
    return found if isinstance(found, dict) else {}


def _texts(parent: dict[str, Any], key: str) -> list[str]:
    found = parent.get(key)
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []
