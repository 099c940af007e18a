"""The restricted pod security standard (kubernetes.io/docs/concepts/security/pod-security-standards), and more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from manifests import Document, Pod, cluster_spec, label, pods

VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
READING = {"get", "list", "watch"}
ACCOUNTS_WITH_TOKEN = {"geopipe-head", "history-server"}
"""KubeRay's autoscaler beside the head, and its history server; nobody else asks Kubernetes for anything."""


def breaches(document: Document) -> Iterator[str]:
    """What the standard forbids in the pods of a document, and in the autoscaler that KubeRay adds."""
    for pod in pods(document):
        for message in of_pod(pod):
            yield f"{pod.where}: {message}"
    cluster = cluster_spec(document) or {}
    if cluster.get("enableInTreeAutoscaling"):
        context = cluster.get("autoscalerOptions", {}).get("securityContext", {})
        for message in of_container({"name": "autoscaler", "securityContext": context}):
            yield f"{label(document)}: {message}"
    for message in of_others(document):
        yield f"{label(document)}: {message}"


def of_others(document: Document) -> Iterator[str]:
    """What a namespace, an account or a role must say."""
    if document["kind"] == "Namespace":
        labels = document["metadata"].get("labels", {})
        if labels.get("pod-security.kubernetes.io/enforce") != "restricted":
            yield "does not enforce the restricted standard"
    if document["kind"] == "ServiceAccount" and document.get("automountServiceAccountToken") is not False:
        yield "gives each pod a token of Kubernetes"
    if document["kind"] in ("Role", "ClusterRole"):
        for rule in document["rules"]:
            if not set(rule["verbs"]) <= READING or "*" in rule["resources"] or "secrets" in rule["resources"]:
                yield "allows more than to read what it names"


def of_pod(pod: Pod) -> Iterator[str]:
    spec = pod.spec
    context = spec.get("securityContext", {})
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield f"{key} is on"
    for volume in spec.get("volumes", ()):
        for kind in set(volume) - VOLUMES - {"name"}:
            yield f"volume {volume['name']}: {kind} is forbidden"
    if context.get("runAsNonRoot") is not True or context.get("runAsUser", 0) == 0:
        yield "may run as root"
    if context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "has no seccomp profile"
    if context.get("sysctls"):
        yield "sets sysctls"
    needs_token = spec.get("serviceAccountName") in ACCOUNTS_WITH_TOKEN
    if spec.get("automountServiceAccountToken") is not False and not needs_token:
        yield "gets a token of Kubernetes"
    for container in pod.containers:
        yield from of_container(container)


def of_container(container: Mapping[str, Any]) -> Iterator[str]:
    name, context = container["name"], container.get("securityContext", {})
    capabilities = context.get("capabilities", {})
    if context.get("privileged"):
        yield f"{name} is privileged"
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"{name} may gain privileges"
    if "ALL" not in capabilities.get("drop", ()) or set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"}:
        yield f"{name} keeps capabilities"
    if context.get("runAsNonRoot") is False or context.get("runAsUser") == 0:
        yield f"{name} may run as root"
    if context.get("seccompProfile", {}).get("type") == "Unconfined":
        yield f"{name} has no seccomp profile"
    if context.get("procMount", "Default") != "Default":
        yield f"{name} sees all of /proc"
    if any(port.get("hostPort") for port in container.get("ports", ())):
        yield f"{name} takes a port of its machine"
    if context.get("readOnlyRootFilesystem") is not True:
        yield f"{name} may write to its image"
