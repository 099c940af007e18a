"""Rules of KubeRay 1.7 that no CRD holds (ray-operator/controllers/ray/utils/validation.go), Kueue's, and our own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from manifests import Document, cluster_spec, label
from ray.scripts.scripts import start

LONGEST = {"RayJob": 47, "RayCluster": 53}
DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
TOKEN_SINCE = (2, 52)
"""The first version of Ray that knows tokens."""
QUEUE = "kueue.x-k8s.io/queue-name"
UNITS = {"": 1, "m": 0.001, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
RESERVED = 2**30
"""Bytes that Ray's own processes of a node need beside tasks and objects."""


def quantity(text: Any) -> float:
    """A quantity of Kubernetes as a number."""
    match = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text))
    assert match is not None, text
    return float(match[1]) * UNITS[match[2]]


def rules(document: Document) -> Iterator[str]:
    """What of a RayJob or RayCluster KubeRay, Kueue or Ray would refuse, or we do not want."""
    cluster = cluster_spec(document)
    if document["kind"] not in LONGEST:
        return
    messages = [*of_name(document)]
    if document["kind"] == "RayJob":
        messages += [*of_job(document["spec"]), *of_our_jobs(document["spec"]), *of_kueue(document)]
    if cluster is not None:
        messages += [*of_cluster(cluster), *of_our_clusters(cluster)]
    for message in messages:
        yield f"{label(document)}: {message}"


def of_name(document: Document) -> Iterator[str]:
    name, longest = document["metadata"]["name"], LONGEST[document["kind"]]
    if len(name) > longest:
        yield f"the name has more than {longest} characters"
    if not DNS_1035.fullmatch(name):
        yield "the name is no DNS-1035 label"


def of_job(spec: Mapping[str, Any]) -> Iterator[str]:
    """What KubeRay refuses of a RayJob."""
    shuts_down = spec.get("shutdownAfterJobFinishes", False)
    rules = spec.get("deletionStrategy", {}).get("deletionRules")
    if spec.get("ttlSecondsAfterFinished", 0) > 0 and not shuts_down:
        yield "ttlSecondsAfterFinished needs shutdownAfterJobFinishes"
    if rules and shuts_down:
        yield "deletionRules excludes shutdownAfterJobFinishes and ttlSecondsAfterFinished"
    if spec.get("suspend") and not shuts_down:
        yield "suspend needs shutdownAfterJobFinishes"
    if spec.get("suspend") and spec.get("clusterSelector"):
        yield "suspend excludes clusterSelector"
    if "rayClusterSpec" not in spec and not spec.get("clusterSelector"):
        yield "one of rayClusterSpec and clusterSelector is needed"
    if spec.get("backoffLimit", 0) < 0 or spec.get("activeDeadlineSeconds", 1) <= 0:
        yield "backoffLimit or activeDeadlineSeconds is not positive"
    if spec.get("submissionMode") == "SidecarMode" and {"submitterPodTemplate", "submitterConfig"} & set(spec):
        yield "SidecarMode excludes submitterPodTemplate and submitterConfig"
    if spec.get("rayClusterSpec", {}).get("authOptions", {}).get("enableK8sTokenAuth"):
        yield "enableK8sTokenAuth is refused for a RayJob"
    if not isinstance(yaml.load(spec.get("runtimeEnvYAML", "{}"), Loader=yaml.CSafeLoader), Mapping):
        yield "runtimeEnvYAML is no mapping"


def of_our_jobs(spec: Mapping[str, Any]) -> Iterator[str]:
    """What a run needs of its RayJob."""
    if spec.get("submissionMode") != "K8sJobMode":
        yield "submissionMode is not K8sJobMode: SidecarMode fails jobs when the head is busy"
    if "submitterPodTemplate" not in spec:
        yield "submitterPodTemplate is missing: the restricted standard refuses KubeRay's own"
    for key in ("activeDeadlineSeconds", "preRunningDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"):
        if key not in spec:
            yield f"{key} is missing"
    if "entrypointNumCpus" in spec:
        yield "entrypointNumCpus never fits a head with num-cpus 0"
    if not re.fullmatch(r"geopipe k8s entrypoint [A-Za-z0-9_./-]+", spec["entrypoint"]):
        yield "the entrypoint, which a shell reads, is not `geopipe k8s entrypoint SETTINGS`"
    if {"runtimeEnvYAML", "clusterSelector"} & set(spec):
        yield "the environment of a run is its image, on a cluster of its own"


def of_kueue(document: Document) -> Iterator[str]:
    """What Kueue does not admit."""
    if QUEUE not in document["metadata"].get("labels", {}):
        return
    spec = document["spec"]
    if not spec.get("suspend"):
        yield "a job in a queue begins suspended"
    if spec.get("clusterSelector"):
        yield "Kueue admits no clusterSelector"
    if spec["rayClusterSpec"].get("enableInTreeAutoscaling"):
        yield "Kueue admits no RayJob with autoscaling"


def groups(cluster: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Head and workers by the name of their Ray container."""
    yield "ray-head", cluster["headGroupSpec"]
    for group in cluster.get("workerGroupSpecs", ()):
        yield "ray-worker", group


def of_cluster(cluster: Mapping[str, Any]) -> Iterator[str]:
    """What KubeRay refuses of a Ray cluster."""
    autoscales = cluster.get("enableInTreeAutoscaling", False)
    if cluster.get("authOptions", {}).get("mode") == "token":
        version = tuple(int(part) for part in str(cluster.get("rayVersion", "0.0")).split(".")[:2])
        if version < TOKEN_SINCE:
            yield "authOptions needs rayVersion 2.52 or later"
    for container, group in groups(cluster):
        parameters, spec = group.get("rayStartParams", {}), group["template"]["spec"]
        if "labels" in parameters:
            yield f"{container}: labels belong to the group, not to rayStartParams"
        if group.get("resources") and {"num-cpus", "num-gpus", "memory", "resources"} & set(parameters):
            yield f"{container}: resources are in rayStartParams and in the group"
        if autoscales and spec.get("restartPolicy", "Never") != "Never":
            yield f"{container}: restartPolicy must be Never where the cluster autoscales"
        if any(entry["name"] == "RAY_enable_autoscaler_v2" for entry in spec["containers"][0].get("env", ())):
            yield f"{container}: autoscalerOptions.version takes the place of RAY_enable_autoscaler_v2"
        if "minReplicas" in group and not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
            yield f"{container}: replicas are not between minReplicas and maxReplicas"


def of_our_clusters(cluster: Mapping[str, Any]) -> Iterator[str]:
    """What a run needs of its Ray cluster."""
    head = cluster["headGroupSpec"]
    if cluster.get("authOptions", {}).get("mode") != "token":
        yield "authOptions.mode is not token"
    if head["rayStartParams"].get("num-cpus") != "0":
        yield "ray-head: num-cpus is not 0: tiles would run beside the driver"
    annotations = head["template"]["metadata"].get("annotations", {})
    if annotations.get("cluster-autoscaler.kubernetes.io/safe-to-evict") != "false":
        yield 'ray-head: safe-to-evict is not "false"'
    if head.get("labels", {}).get("ray.io/market-type") == "spot":
        yield "ray-head: the head is on a spot machine"
    for container, group in groups(cluster):
        for message in of_group(container, group):
            yield f"{container}: {message}"
    yield from of_autoscaling(cluster)


def of_autoscaling(cluster: Mapping[str, Any]) -> Iterator[str]:
    """What a cluster that grows and shrinks needs; any other has one size."""
    if cluster.get("enableInTreeAutoscaling"):
        options = cluster.get("autoscalerOptions", {})
        if options.get("version") != "v2":
            yield "autoscaler: version is not v2"
        if quantity(options.get("resources", {}).get("limits", {}).get("memory", 0)) < 2**30:
            yield "autoscaler: less than 1Gi of memory"
    elif any(group["minReplicas"] != group["maxReplicas"] for group in cluster["workerGroupSpecs"]):
        yield "minReplicas and maxReplicas differ, but nothing scales the cluster"


def of_group(name: str, group: Mapping[str, Any]) -> Iterator[str]:
    """What a run needs of the pods of a head or worker group."""
    spec, parameters = group["template"]["spec"], group["rayStartParams"]
    for parameter in set(parameters) - {option.name.replace("_", "-") for option in start.params}:
        yield f"`ray start` has no option --{parameter}"
    container = spec["containers"][0]
    mounts = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts", ())}
    volumes = {volume["name"]: volume for volume in spec.get("volumes", ())}
    limits = container["resources"]["limits"]
    if container["name"] != name:
        yield "the first container is not Ray's"
    shared = volumes.get(mounts.get("/dev/shm", ""), {}).get("emptyDir", {})
    if shared.get("medium") != "Memory":
        yield "/dev/shm is no emptyDir in memory"
    elif quantity(shared["sizeLimit"]) < int(parameters["object-store-memory"]):
        yield "/dev/shm is smaller than the object store"
    if parameters.get("object-spilling-directory") not in mounts:
        yield "object-spilling-directory is no mount of the container"
    memory = int(parameters["memory"]) + int(parameters["object-store-memory"]) + RESERVED
    if memory > quantity(limits["memory"]):
        yield "memory and object store leave less than 1 GiB of the limit to Ray itself"
    folders = [volume["emptyDir"] for volume in volumes.values() if "emptyDir" in volume]
    disks = [folder for folder in folders if folder.get("medium") != "Memory"]
    if sum(quantity(disk["sizeLimit"]) for disk in disks) > quantity(limits["ephemeral-storage"]):
        yield "the volumes on disk may grow beyond the limit of ephemeral-storage"
