"""The manifests of one run: an overlay of k8s/ with its name, settings, image and pods, built by kubectl."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopipe
from geopipe.errors import MachineError, SettingsError
from geopipe.kuberay.sizing import Pods

OVERLAYS = ("dev", "production", "kueue")
GROWING = ("production",)
"""Overlays that scale from one worker pod to the number of the plan."""

LONGEST_NAME = 47
"""KubeRay adds suffixes to the name of a RayJob, and Kubernetes takes 63 characters."""

NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
OBJECT = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?")
IMAGE = re.compile(r"(?P<name>[a-z0-9][\w.:/-]*?)(?::(?P<tag>[\w][\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?")

HEAD = "/spec/rayClusterSpec/headGroupSpec"
WORKERS = "/spec/rayClusterSpec/workerGroupSpecs/0"
VOLUMES = {name: f"/template/spec/volumes/{index}" for index, name in enumerate(("settings", "data", "shm", "spill"))}


@dataclass(frozen=True)
class KubernetesRun:
    """A run on Kubernetes. `claim` is a PersistentVolumeClaim that exists; "" for that of the overlay.

    `settings` are TOML. `deadline` is in seconds, 0 for that of the overlay.
    """

    name: str
    settings: str
    overlay: str
    image: str
    pods: Pods
    deadline: int = 0
    namespace: str = "geopipe"
    claim: str = ""


def job_name(run: str, digest: str) -> str:
    """A name for a run, the same for the same plan: a second `kubectl apply` starts no other run.

    Args:
        digest: hexadecimal digits that identify the plan.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", run.lower()).strip("-")
    slug = slug if slug[:1].isalpha() else f"run-{slug}".strip("-")
    return f"{slug[: LONGEST_NAME - 9].rstrip('-')}-{digest[:8]}"


def digest_of(text: str) -> str:
    """Hexadecimal digits that identify settings without a plan."""
    return hashlib.sha256(text.encode()).hexdigest()


def render(job: KubernetesRun) -> str:
    """The manifests of a run as YAML.

    Raises:
        SettingsError: a name or the image cannot be used.
        MachineError: kubectl is missing, or refuses to build the manifests.
    """
    kustomization = _kustomization(job)
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise MachineError("kubectl is not installed", "install kubectl 1.27 or later: it builds the manifests")
    with tempfile.TemporaryDirectory(prefix="geopipe-") as name:
        folder = Path(name).resolve()
        resource = os.path.relpath(tree() / "overlays" / job.overlay, folder)
        (folder / "settings.toml").write_text(job.settings, encoding="utf-8")
        (folder / "kustomization.yaml").write_text(json.dumps(kustomization | {"resources": [resource]}))
        done = subprocess.run(
            [kubectl, "kustomize", str(folder)], capture_output=True, text=True, timeout=120, check=False
        )
    if done.returncode:
        raise MachineError(
            f"kubectl cannot build the manifests: {done.stderr.strip()}", "kubectl 1.27 or later is needed"
        )
    return done.stdout


def tree() -> Path:
    """The folder of manifests: k8s of the repository, which a wheel has in the package."""
    package = Path(geopipe.__file__).resolve().parent
    source = package.parent / "k8s"
    return source if (source / "base").is_dir() else package / "k8s"


def _kustomization(job: KubernetesRun) -> dict[str, Any]:
    _check_names(job)
    settings, claim = f"{job.name}-settings", job.claim
    edits = [_replace("/metadata/name", job.name), *_worker_edits(job)]
    if job.deadline:
        edits.append(_replace("/spec/activeDeadlineSeconds", job.deadline))
    for group in (HEAD, WORKERS):
        edits += _volume_edit(group, "settings", "configMap/name", settings)
        edits += _volume_edit(group, "data", "persistentVolumeClaim/claimName", claim) if claim else []
    target = {"kind": "RayJob"}
    patches: list[dict[str, Any]] = [
        {"target": target, "patch": json.dumps(edits), "options": {"allowNameChange": True}},
        _deletion("v1", "ConfigMap", "geopipe-settings"),
    ]
    if claim:
        patches.append(_deletion("v1", "PersistentVolumeClaim", "geopipe-data"))
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": job.namespace,
        "labels": [{"pairs": {"app.kubernetes.io/part-of": "geopipe"}}],
        "configMapGenerator": [
            {"name": settings, "files": ["settings.toml"], "options": {"disableNameSuffixHash": True}}
        ],
        "images": [_image(job.image)],
        "patches": patches,
    }


def _worker_edits(job: KubernetesRun) -> list[dict[str, Any]]:
    pods = job.pods
    resources = {"cpu": str(pods.cpus), "memory": _quantity(pods.limit), "ephemeral-storage": _quantity(pods.disk)}
    least = 1 if job.overlay in GROWING else pods.count
    return [
        _replace(f"{WORKERS}/replicas", least),
        _replace(f"{WORKERS}/minReplicas", least),
        _replace(f"{WORKERS}/maxReplicas", pods.count),
        _replace(f"{WORKERS}/rayStartParams/memory", str(pods.memory)),
        _replace(f"{WORKERS}/rayStartParams/object-store-memory", str(pods.object_store)),
        _replace(f"{WORKERS}/template/spec/containers/0/resources", {"requests": resources, "limits": resources}),
        *_volume_edit(WORKERS, "shm", "emptyDir/sizeLimit", _quantity(pods.shm)),
        *_volume_edit(WORKERS, "spill", "emptyDir/sizeLimit", _quantity(pods.spill)),
    ]


def _quantity(size: int) -> str:
    """Bytes in words of Kubernetes: 5Gi."""
    return f"{size >> 30}Gi" if size % (1 << 30) == 0 else f"{size >> 20}Mi"


def _replace(path: str, value: Any) -> dict[str, Any]:
    return {"op": "replace", "path": path, "value": value}


def _volume_edit(group: str, volume: str, key: str, value: str) -> list[dict[str, Any]]:
    """Replace a value of a volume; kustomize refuses it if another volume is in its place."""
    place = f"{group}{VOLUMES[volume]}"
    return [{"op": "test", "path": f"{place}/name", "value": volume}, _replace(f"{place}/{key}", value)]


def _deletion(version: str, kind: str, name: str) -> dict[str, Any]:
    text = {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "$patch": "delete"}
    return {"target": {"kind": kind, "name": name}, "patch": json.dumps(text)}


def _image(reference: str) -> dict[str, str]:
    parts = IMAGE.fullmatch(reference)
    if parts is None or not (parts["digest"] or parts["tag"]) or (parts["tag"] == "latest" and not parts["digest"]):
        raise SettingsError(
            f"--image {reference} does not name one version of an image",
            "give a tag other than latest, or a digest: registry.example.org/geopipe:0.1.0",
        )
    version = {"digest": parts["digest"]} if parts["digest"] else {"newTag": parts["tag"]}
    return {"name": "geopipe", "newName": parts["name"], **version}


def _check_names(job: KubernetesRun) -> None:
    if not NAME.fullmatch(job.name) or len(job.name) > LONGEST_NAME:
        raise SettingsError(
            f"--name {job.name} is no name of a RayJob",
            f"use at most {LONGEST_NAME} of a-z, 0-9 and -, beginning with a letter and not ending with -",
        )
    if not LABEL.fullmatch(job.namespace) or len(job.namespace) > 63:
        raise SettingsError(f"--namespace {job.namespace} is no name of a namespace", "use a-z, 0-9 and -")
    if job.claim and not OBJECT.fullmatch(job.claim):
        raise SettingsError(f"--claim {job.claim} is no name of a PersistentVolumeClaim", "use a-z, 0-9, - and .")
