"""What an experiment ran on: read from objects as real clusters have them, and from clusters that refuse."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from affinity_tester.cluster.api import ApiError, Params
from affinity_tester.cluster.connect import Cluster
from affinity_tester.cluster.context_watch import PROXY_LABELS
from affinity_tester.cluster.objects import ServiceRef
from affinity_tester.cluster.ran_on import read_ran_on
from affinity_tester.core.experiment.results import RanOn

Json = dict[str, Any]
CONFIG = "/api/v1/namespaces/kube-system/configmaps/kube-proxy"
CILIUM = "/api/v1/namespaces/kube-system/configmaps/cilium-config"
FELIX = "/apis/crd.projectcalico.org/v1/felixconfigurations/default"
REF = ServiceRef("media", "turn")


class Answers:
    """`Api` that answers some paths, and all others with 404."""

    def __init__(self, answers: dict[str, Json | ApiError]) -> None:
        self.answers = answers

    async def get(self, path: str, params: Params = (), *, metadata_only: bool = False) -> Json:
        labels = dict(params).get("labelSelector", "")
        answer = self.answers.get(f"{path}?{labels}" if labels else path, ApiError("not found", 404))
        if isinstance(answer, ApiError):
            raise answer
        return answer

    def lines(
        self, path: str, params: Params, silence_s: float, *, metadata_only: bool = False
    ) -> AsyncGenerator[bytes, None]:
        raise NotImplementedError

    async def close(self) -> None:
        """Nothing is open."""


async def ran_on(answers: dict[str, Json | ApiError], via: str = "node-port") -> RanOn:
    cluster = Cluster(Answers(answers), "kind-test", "media", inside=False)  # type: ignore[arg-type]
    return await read_ran_on(cluster, [REF], via)


def node(os: str, provider: str = "aws:///eu-west-1a/i-1") -> Json:
    info = {
        "osImage": os,
        "kernelVersion": "6.8.0",
        "containerRuntimeVersion": "containerd://1.7.13",
        "kubeletVersion": "v1.36.0",
    }
    return {"spec": {"providerID": provider}, "status": {"nodeInfo": info}}


def proxies(**labels: str) -> dict[str, Json | ApiError]:
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"command": ["kube-proxy", "--v=2"]}]}}
    return {f"/api/v1/pods?{PROXY_LABELS[0]}": {"items": [pod]}}


async def test_a_whole_cluster() -> None:
    daemonset = {
        "metadata": {"name": "aws-node"},
        "spec": {"template": {"spec": {"containers": [{"image": "registry.example/amazon-k8s-cni:v1.19.0"}]}}},
    }
    service = {
        "metadata": {
            "annotations": {
                "service.beta.kubernetes.io/aws-load-balancer-type": "external",
                "kubectl.kubernetes.io/last-applied-configuration": "{}",
            }
        },
        "spec": {"type": "LoadBalancer", "loadBalancerClass": "service.k8s.aws/nlb"},
    }
    found = await ran_on(
        {
            "/version": {"gitVersion": "v1.36.1-eks"},
            "/api/v1/nodes": {"items": [node("Bottlerocket"), node("Ubuntu 24.04"), node("Ubuntu 24.04")]},
            "/apis/apps/v1/daemonsets": {"items": [daemonset, {"metadata": {"name": "node-exporter"}}]},
            CONFIG: {"data": {"config": 'kind: KubeProxyConfiguration\nmode: "ipvs"\n'}},
            "/api/v1/namespaces/media/services/turn": service,
            **proxies(**{"k8s-app": "kube-proxy"}),
        },
        "load-balancer",
    )
    assert found == RanOn(
        context="kind-test",
        kubernetes="v1.36.1-eks",
        nodes=3,
        os=(("Ubuntu 24.04", 2), ("Bottlerocket", 1)),
        kernels=(("6.8.0", 3),),
        runtimes=(("containerd://1.7.13", 3),),
        kubelets=(("v1.36.0", 3),),
        proxy="kube-proxy, ipvs mode",
        cni="AWS VPC CNI v1.19.0",
        cloud="aws",
        balancer="service.k8s.aws/nlb, service.beta.kubernetes.io/aws-load-balancer-type=external",
        via="load-balancer",
        missing=(),
    )


FLAG = {
    "metadata": {"labels": {"component": "kube-proxy"}},
    "spec": {"containers": [{"args": ["--proxy-mode=nftables"]}]},
}


@pytest.mark.parametrize(
    ("answers", "proxy"),
    [
        (
            {CILIUM: {"data": {"kube-proxy-replacement": "true"}}, **proxies(**{"k8s-app": "cilium"})},
            "Cilium in kube-proxy's place",
        ),
        ({FELIX: {"spec": {"bpfEnabled": True}}}, "Calico (eBPF) in kube-proxy's place"),
        ({CONFIG: {"data": {"config.conf": 'mode: ""'}}}, "kube-proxy, iptables mode (the default)"),
        ({CONFIG: {"data": {"config.conf": "mode: iptables"}}}, "kube-proxy, iptables mode"),
        ({f"/api/v1/pods?{PROXY_LABELS[1]}": {"items": [FLAG]}}, "kube-proxy, nftables mode"),
        (proxies(**{"k8s-app": "kube-proxy"}), "kube-proxy, mode unknown"),
        (proxies(**{"k8s-app": "kube-router"}), "kube-router"),
        (proxies(app="ovnkube-node", component="network"), "OVN-Kubernetes"),
        (
            {"/api/v1/nodes": {"items": [{"status": {"nodeInfo": {"kubeletVersion": "v1.35.1+k3s1"}}}]}},
            "kube-proxy inside the node's agent (k3s)",
        ),
        ({}, ""),
    ],
)
async def test_proxies(answers: dict[str, Json | ApiError], proxy: str) -> None:
    assert (await ran_on(answers)).proxy == proxy


async def test_other_clouds_by_their_ids() -> None:
    found = await ran_on(
        {"/api/v1/nodes": {"items": [node("x", "kind://docker/k/n"), node("x", "gce://p/z/n"), node("x", "")]}}
    )
    assert found.cloud == "gke, kind"


async def test_a_balancer_without_a_class() -> None:
    found = await ran_on({"/api/v1/namespaces/media/services/turn": {"spec": {"type": "LoadBalancer"}}})
    assert found.balancer == "the cluster's default"


async def test_what_is_refused_is_named_once() -> None:
    denied = ApiError("forbidden", 403)
    paths = ("/version", "/api/v1/nodes", "/apis/apps/v1/daemonsets", CONFIG, CILIUM, FELIX)
    answers: dict[str, Json | ApiError] = dict.fromkeys(paths, denied)
    answers |= {f"/api/v1/pods?{labels}": denied for labels in PROXY_LABELS}
    answers["/api/v1/namespaces/media/services/turn"] = ApiError("the API server did not answer in time")
    found = await ran_on(answers)
    assert (found.nodes, found.kubernetes, found.proxy, found.cni, found.cloud) == (None, "", "", "", "")
    assert found.missing == (
        "nodes: not readable (not allowed)",
        "CNI: not readable (not allowed)",
        "Kubernetes version: not readable (not allowed)",
        "kube-proxy's configuration: not readable (not allowed)",
        "Cilium's configuration: not readable (not allowed)",
        "Calico's configuration: not readable (not allowed)",
        "proxy: not readable (not allowed)",
        "Service: not readable (the API server did not answer in time)",
    )
