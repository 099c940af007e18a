"""Kubernetes manifests as documents, and all that must hold of them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from surroundings import REPOSITORY

Document = Mapping[str, Any]

K8S = REPOSITORY / "k8s"
KUBECTL = shutil.which("kubectl")
NO_KUBECTL = "kubectl, whose `kubectl kustomize` builds the manifests, is not installed"


class Unbuildable(Exception):
    """kustomize refused a folder."""


def render(folder: Path) -> list[Document]:
    """The documents of a folder with a kustomization. Raises Unbuildable with kustomize's words."""
    assert KUBECTL is not None, NO_KUBECTL
    done = subprocess.run([KUBECTL, "kustomize", str(folder)], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise Unbuildable(done.stderr)
    return parse(done.stdout)


def parse(text: str) -> list[Document]:
    return [document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document]


def label(document: Document) -> str:
    """Kind and name of a document, as in messages."""
    return f"{document.get('kind')}/{(document.get('metadata') or {}).get('name')}"


@dataclass(frozen=True)
class Pod:
    """A pod template, and where it is."""

    where: str
    template: Mapping[str, Any]
    claims: frozenset[str] = frozenset()  # volumes that a StatefulSet adds

    @property
    def spec(self) -> Mapping[str, Any]:
        result: Mapping[str, Any] = self.template.get("spec", {})
        return result

    @property
    def labels(self) -> Mapping[str, str]:
        result: Mapping[str, str] = self.template.get("metadata", {}).get("labels", {})
        return result

    @property
    def containers(self) -> Sequence[Mapping[str, Any]]:
        return [*self.spec.get("initContainers", ()), *self.spec.get("containers", ())]


def pods(document: Document) -> Iterator[Pod]:
    """The pod templates of a document."""
    spec, where = document.get("spec", {}), label(document)
    if document["kind"] in ("Deployment", "StatefulSet", "Job", "DaemonSet"):
        claims = frozenset(claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", ()))
        yield Pod(where, spec["template"], claims)
    if document["kind"] == "RayJob" and "submitterPodTemplate" in spec:
        yield Pod(f"{where} submitter", spec["submitterPodTemplate"])
    if cluster := cluster_spec(document):
        yield Pod(f"{where} head", cluster["headGroupSpec"]["template"])
        for group in cluster.get("workerGroupSpecs", ()):
            yield Pod(f"{where} {group['groupName']}", group["template"])


def cluster_spec(document: Document) -> Mapping[str, Any] | None:
    """The Ray cluster of a RayJob or RayCluster."""
    spec: Mapping[str, Any] = document.get("spec", {})
    return {"RayCluster": spec, "RayJob": spec.get("rayClusterSpec")}.get(document["kind"])
