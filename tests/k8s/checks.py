"""All that must hold of manifests, whoever writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import kuberay
import pod_security
import references
import schemas
from manifests import Document, label, pods


def problems(documents: Sequence[Document]) -> list[str]:
    """What is wrong with the documents of one `kubectl apply`. CRDs count where GEOPIPE_CRD_DIR is set."""
    checks: list[Callable[[Document], Iterator[str]]] = [
        schemas.built_in,
        kuberay.rules,
        pod_security.breaches,
        loose_containers,
    ]
    if schemas.CRDS is not None:
        checks.insert(0, schemas.custom)
    result: list[str] = []
    for document in documents:
        for check in checks:
            try:
                result += check(document)
            except (KeyError, TypeError, AttributeError) as error:  # the document has another shape
                result.append(f"{label(document)}: {check.__name__} cannot read it: {error!r}")
    return [*result, *references.dangling(documents)]


def loose_containers(document: Document) -> Iterator[str]:
    """Images without a version, and containers that get another share of a machine than they may use."""
    for pod in pods(document):
        for container in pod.containers:
            resources = container.get("resources", {})
            if not resources.get("limits") or resources["limits"] != resources.get("requests"):
                yield f"{pod.where}: {container['name']}: requests and limits differ"
            name, _, version = container.get("image", "").rpartition("/")[2].partition(":")
            if not name or version in ("", "latest"):
                yield f"{pod.where}: {container['name']} has no image with a version"
