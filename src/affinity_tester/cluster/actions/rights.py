"""Asks the API server whether it allows what an experiment will do, before anything is done (SelfSubjectAccessReview)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace

from affinity_tester.cluster.actions.calls import Right
from affinity_tester.cluster.api import FORBIDDEN, ApiError, Json, WritableApi
from affinity_tester.errors import UserError

REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"

AT_ONCE = 8
"""So many questions at a time: a drain of a full node has a hundred pods in twenty namespaces."""


async def missing_rights(api: WritableApi, rights: Iterable[Right]) -> list[Right]:
    """Return those that are denied. Raises `ApiError`.

    Where the API server does not answer such questions, which RBAC's default role allows everybody, none is known to be.
    """
    wanted = _widened(rights)
    limit = asyncio.Semaphore(AT_ONCE)

    async def allowed(right: Right) -> bool:
        async with limit:
            try:
                return is_allowed(await api.create(REVIEWS, review(right)))
            except ApiError as error:
                if error.status == FORBIDDEN:
                    return True
                raise

    answers = await asyncio.gather(*map(allowed, wanted))
    return [right for right, answer in zip(wanted, answers, strict=True) if not answer]


async def check_rights(api: WritableApi, rights: Iterable[Right]) -> None:
    """Raise `UserError` with all rights that are missing, if any is; and `ApiError`."""
    missing = await missing_rights(api, rights)
    if missing:
        names = ", ".join(dict.fromkeys(map(str, missing)))
        raise UserError(
            f"the cluster does not allow what the experiment needs ({names}): ask its administrator for these rights; those"
            " that the experiments of `all` need are in k8s/experiment-rbac.yaml"
        )


def review(right: Right) -> Json:
    """Return the question whether the caller has a right."""
    attributes = {
        "verb": right.verb,
        "group": right.group,
        "resource": right.resource,
        "subresource": right.subresource,
        "namespace": right.namespace,
        "name": right.name,
    }
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {name: value for name, value in attributes.items() if value}},
    }


def is_allowed(answer: Json) -> bool:
    """True if the answer to a review allows it."""
    status = answer.get("status")
    return isinstance(status, dict) and status.get("allowed") is True


def _widened(rights: Iterable[Right]) -> list[Right]:
    """Return each right once; those for many pods by name become one for the pods of their namespace.

    Pods' names change, so that no role names them.
    """
    return list(dict.fromkeys(replace(right, name="") if right.resource == "pods" else right for right in rights))
