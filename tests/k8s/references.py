"""Names that documents have of each other: each must lead somewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from manifests import Document, Pod, cluster_spec, label, pods

NAMESPACE = "geopipe"
OUTSIDE = {("Secret", "geopipe-database"), ("Secret", "geopipe-ray-token"), ("Secret", "geopipe-postgres")}
"""What the user makes, since no secret is in the repository; k8s/README.md says how."""
CLUSTER_WIDE = {"Namespace"}


def dangling(documents: Sequence[Document]) -> Iterator[str]:
    """References to nothing, selectors of no pod, ports that no container has, documents outside of the namespace."""
    known = OUTSIDE | {(document["kind"], document["metadata"]["name"]) for document in documents}
    everywhere = [pod for document in documents for pod in pods(document)]
    for document in documents:
        if document["kind"] not in CLUSTER_WIDE and document["metadata"].get("namespace") != NAMESPACE:
            yield f"{label(document)}: is not in the namespace {NAMESPACE}"
        for kind, name in references(document):
            if (kind, name) not in known:
                yield f"{label(document)}: there is no {kind}/{name}"
        for message in [*unknown_mounts(document), *lonely_selectors(document, everywhere)]:
            yield f"{label(document)}: {message}"


def references(document: Document) -> Iterator[tuple[str, str]]:
    """Kind and name of what a document needs."""
    for pod in pods(document):
        if "serviceAccountName" in pod.spec:
            yield "ServiceAccount", pod.spec["serviceAccountName"]
        for volume in pod.spec.get("volumes", ()):
            for key, kind, name in (
                ("configMap", "ConfigMap", "name"),
                ("secret", "Secret", "secretName"),
                ("persistentVolumeClaim", "PersistentVolumeClaim", "claimName"),
            ):
                if key in volume:
                    yield kind, volume[key][name]
        for container in pod.containers:
            yield from references_of_environment(container)
    cluster = cluster_spec(document)
    if cluster is not None and "secretName" in cluster.get("authOptions", {}):
        yield "Secret", cluster["authOptions"]["secretName"]
    if document["kind"] == "StatefulSet":
        yield "Service", document["spec"]["serviceName"]
    if document["kind"] == "RoleBinding":
        yield from ((one["kind"], one["name"]) for one in [document["roleRef"], *document["subjects"]])


def references_of_environment(container: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for source in container.get("envFrom", ()):
        for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
            if key in source:
                yield kind, source[key]["name"]
    for entry in container.get("env", ()):
        source = entry.get("valueFrom", {})
        for key, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
            if key in source:
                yield kind, source[key]["name"]


def unknown_mounts(document: Document) -> Iterator[str]:
    for pod in pods(document):
        volumes = {volume["name"] for volume in pod.spec.get("volumes", ())} | pod.claims
        for container in pod.containers:
            for mount in container.get("volumeMounts", ()):
                if mount["name"] not in volumes:
                    yield f"{container['name']} mounts {mount['name']}, which is no volume of its pod"


def lonely_selectors(document: Document, everywhere: Sequence[Pod]) -> Iterator[str]:
    """Selectors that match no pod, and ports by name that no pod of theirs has."""
    spec, kind = document.get("spec", {}), document["kind"]
    selectors = []
    if kind == "NetworkPolicy":
        ports = [port["port"] for rule in spec.get("ingress", ()) for port in rule.get("ports", ())]
        selectors.append((spec["podSelector"], ports))
        peers = [peer for rule in spec.get("ingress", ()) for peer in rule.get("from", ())]
        peers += [peer for rule in spec.get("egress", ()) for peer in rule.get("to", ())]
        # of pods in other namespaces nothing is known
        own = [peer for peer in peers if "namespaceSelector" not in peer]
        selectors += [(peer["podSelector"], []) for peer in own if "podSelector" in peer]
    elif kind == "PodMonitor":
        selectors.append((spec["selector"], [endpoint["port"] for endpoint in spec["podMetricsEndpoints"]]))
    elif kind == "PodDisruptionBudget":
        selectors.append((spec["selector"], []))
    elif kind == "Service":
        ports = [port.get("targetPort", port["port"]) for port in spec["ports"]]
        selectors.append(({"matchLabels": spec["selector"]}, ports))
    for pod in pods(document):
        selectors += [(one["labelSelector"], []) for one in pod.spec.get("topologySpreadConstraints", ())]
    for selector, ports in selectors:
        chosen = [pod for pod in everywhere if matches(selector, pod.labels)]
        names = {port.get("name") for pod in chosen for one in pod.containers for port in one.get("ports", ())}
        numbers = {port["containerPort"] for pod in chosen for one in pod.containers for port in one.get("ports", ())}
        if not chosen:
            yield f"no pod matches {dict(selector)}"
        yield from (f"no pod has the port {port}" for port in ports if port not in names | numbers)


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector of Kubernetes takes a pod. Of its operators only In is in use."""
    results = [labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()]
    for expression in selector.get("matchExpressions", ()):
        assert expression["operator"] == "In", expression
        results.append(labels.get(expression["key"]) in expression["values"])
    return all(results)
