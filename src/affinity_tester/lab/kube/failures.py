"""The errors of the emulated API server, in the words and codes of a real one (apimachinery, `pkg/api/errors`)."""

from __future__ import annotations

from affinity_tester.errors import AffinityTesterError
from affinity_tester.lab.kube.resources import Json, Resource


class StatusError(AffinityTesterError):
    """A request that is refused: HTTP status, reason and message of the Status object that answers it."""

    def __init__(self, code: int, reason: str, message: str, details: Json | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.details = details or {}

    def status(self) -> Json:
        """Return the Status object."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": str(self),
            "reason": self.reason,
            "details": self.details,
            "code": self.code,
        }


def not_found(resource: Resource, name: str) -> StatusError:
    """Return that there is no such object."""
    return StatusError(404, "NotFound", f'{resource.qualified} "{name}" not found', _details(resource, name))


def already_exists(resource: Resource, name: str) -> StatusError:
    """Return that the object is there already."""
    return StatusError(409, "AlreadyExists", f'{resource.qualified} "{name}" already exists', _details(resource, name))


def conflict(resource: Resource, name: str, why: str) -> StatusError:
    """Return that the request does not fit the object as it is."""
    message = f'Operation cannot be fulfilled on {resource.qualified} "{name}": {why}'
    return StatusError(409, "Conflict", message, _details(resource, name))


def stale(resource: Resource, name: str) -> StatusError:
    """Return that the object has another resourceVersion than the request."""
    why = "the object has been modified; please apply your changes to the latest version and try again"
    return conflict(resource, name, why)


def invalid(resource: Resource, name: str, field: str, problem: str) -> StatusError:
    """Return that a field cannot be so."""
    message = f'{resource.kind}{"." + resource.group if resource.group else ""} "{name}" is invalid: {field}: {problem}'
    causes = [{"reason": "FieldValueInvalid", "message": problem, "field": field}]
    return StatusError(422, "Invalid", message, {**_details(resource, name), "kind": resource.kind, "causes": causes})


def bad_request(message: str) -> StatusError:
    """Return that the request itself cannot be read."""
    return StatusError(400, "BadRequest", message)


def forbidden(resource: Resource, verb: str, subresource: str, namespace: str, name: str) -> StatusError:
    """Return that the user lacks the right."""
    what = f"{resource.plural}/{subresource}" if subresource else resource.plural
    where = f' in the namespace "{namespace}"' if namespace else " at the cluster scope"
    one = f' "{name}"' if name else ""
    said = f'User "lab" cannot {verb} resource "{what}" in API group "{resource.group}"{where}'
    return StatusError(403, "Forbidden", f"{resource.qualified}{one} is forbidden: {said}", _details(resource, name))


def expired(message: str) -> StatusError:
    """Return that the server has forgotten what is asked for."""
    return StatusError(410, "Expired", message)


def method_not_allowed() -> StatusError:
    """Return that the resource has no such verb."""
    return StatusError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")


def no_such_path() -> StatusError:
    """Return that the path names nothing."""
    return StatusError(404, "NotFound", "the server could not find the requested resource")


def unsupported_media(content_type: str, known: str) -> StatusError:
    """Return that the body is of an unknown type."""
    message = f"the body of the request was in an unknown format - accepted media types include: {known}"
    return StatusError(415, "UnsupportedMediaType", f"{message} (not {content_type})")


def _details(resource: Resource, name: str) -> Json:
    group = {"group": resource.group} if resource.group else {}
    return {"name": name, **group, "kind": resource.plural}
