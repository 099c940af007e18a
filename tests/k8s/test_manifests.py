"""Every overlay is what Kubernetes, KubeRay and the restricted standard take; a broken copy of each kind is not."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import schemas
import yaml
from checks import problems
from manifests import K8S, KUBECTL, NO_KUBECTL, Document, Unbuildable, cluster_spec, label, pods, render
from surroundings import REPOSITORY

import geopipe
from geopipe.settings.load import load

pytestmark = pytest.mark.skipif(KUBECTL is None, reason=NO_KUBECTL)
needs_crds = pytest.mark.skipif(schemas.CRDS is None, reason=schemas.NO_CRDS)

OVERLAYS = sorted(path.parent.name for path in K8S.glob("overlays/*/kustomization.yaml"))
OPTIONAL = ("external-secrets", "history-server")
"""Components that no overlay has by itself."""
ALL = "production with optional components"


@cache
def overlay(name: str) -> tuple[Document, ...]:
    return tuple(render(K8S / "overlays" / name))


def with_optional_components(name: str, folder: Path) -> list[Document]:
    """An overlay with all optional components, as a user would add them."""

    def relative(path: str) -> str:
        return os.path.relpath(K8S / path, folder.resolve())

    lines = {
        "resources": [relative(f"overlays/{name}")],
        "components": [relative(f"components/{component}") for component in OPTIONAL],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(lines), encoding="utf-8")
    return render(folder)


@pytest.fixture(scope="session")
def everything(tmp_path_factory: pytest.TempPathFactory) -> list[Document]:
    return with_optional_components("production", tmp_path_factory.mktemp("all"))


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlay_passes_every_check(name: str) -> None:
    assert problems(overlay(name)) == []


@pytest.mark.parametrize("name", sorted(set(OVERLAYS) - {"interactive"}))
def test_optional_components_pass_every_check(name: str, tmp_path: Path) -> None:
    documents = with_optional_components(name, tmp_path)
    assert problems(documents) == []
    assert {"Deployment", "ExternalSecret", "Role", "RoleBinding"} <= {document["kind"] for document in documents}
    (job,) = (document for document in documents if document["kind"] == "RayJob")
    collectors = [one["env"] for pod in pods(job) for one in pod.containers if one["name"] == "collector"]
    assert [env[0] for env in collectors] == [{"name": "RAY_ROLE", "value": role} for role in ("Head", "Worker")]


@needs_crds
@pytest.mark.parametrize("name", OVERLAYS)
def test_custom_resources_match_the_definitions_of_their_operators(name: str) -> None:
    custom = [document for document in overlay(name) if document["kind"] in schemas.CUSTOM]
    assert custom
    assert [message for document in custom for message in schemas.custom(document)] == []


def test_every_component_and_the_base_are_in_what_is_tested() -> None:
    components = {path.name for path in (K8S / "components").iterdir()}
    texts = [path.read_text(encoding="utf-8") for path in K8S.glob("*/**/kustomization.yaml")]
    used = {match for text in texts for match in re.findall(r"\.\./components/([a-z-]+)", text)}
    assert components == used | set(OPTIONAL)


def test_a_misspelt_kustomization_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resourcs: []\n", encoding="utf-8")
    with pytest.raises(Unbuildable, match="resourcs"):
        render(tmp_path)


# What one file says of another


@pytest.mark.parametrize("name", OVERLAYS)
def test_settings_of_an_overlay_are_settings(name: str, tmp_path: Path) -> None:
    (text,) = (one["data"]["settings.toml"] for one in overlay(name) if label(one) == "ConfigMap/geopipe-settings")
    path = tmp_path / "settings.toml"
    path.write_text(text, encoding="utf-8")
    settings = load(path)
    ports = {port["name"]: port["containerPort"] for one in ports_of_heads(overlay(name)) for port in one}
    assert settings.monitoring.prometheus_port == ports["geopipe"]


def ports_of_heads(documents: Sequence[Document]) -> list[list[dict[str, Any]]]:
    clusters = [cluster for cluster in map(cluster_spec, documents) if cluster]
    return [cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["ports"] for cluster in clusters]


def test_manifests_run_the_version_of_geopipe_and_ray_that_is_locked() -> None:
    lock = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
    ray = re.search(r"^ray==([0-9.]+)", lock, re.MULTILINE)
    assert ray is not None
    for name in OVERLAYS:
        for document in overlay(name):
            cluster = cluster_spec(document)
            if cluster:
                assert cluster["rayVersion"] == ray[1]
                images = {container["image"] for pod in pods(document) for container in pod.containers}
                assert images == {f"geopipe:{geopipe.__version__}"}


def test_alerts_are_those_that_prometheus_is_tested_with() -> None:
    rules = yaml.safe_load((REPOSITORY / "cluster/prometheus/rules.yml").read_text(encoding="utf-8"))
    (document,) = (one for one in overlay("production") if one["kind"] == "PrometheusRule")
    assert document["spec"] == rules


def test_dashboards_are_those_of_grafana_and_carry_the_label_of_its_sidecar() -> None:
    (document,) = (one for one in overlay("production") if label(one) == "ConfigMap/geopipe-dashboards")
    assert document["metadata"]["labels"]["grafana_dashboard"] == "1"
    folder = REPOSITORY / "cluster/grafana"
    assert {name: json.loads(text) for name, text in document["data"].items()} == {
        path.name: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")
    }


def test_metrics_ports_of_ray_and_geopipe_are_scraped() -> None:
    (monitor,) = (one for one in overlay("production") if one["kind"] == "PodMonitor")
    names = {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]}
    (ports,) = ports_of_heads(overlay("production"))
    assert {port["containerPort"] for port in ports if port["name"] in names} == {8080, 44217, 44227, 9490}


def test_no_secret_is_in_the_manifests(everything: Sequence[Document]) -> None:
    texts = [path.read_text(encoding="utf-8") for path in K8S.rglob("*") if path.is_file()]
    assert [label(document) for document in everything if document["kind"] == "Secret"] == []
    assert [text for text in texts if re.search(r"postgresql://[^\s@]*:[^\s@$<P]", text)] == []


def test_spot_machines_take_workers_and_never_the_head() -> None:
    (job,) = (one for one in overlay("production") if one["kind"] == "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    market = "ray.io/market-type"
    assert cluster["headGroupSpec"]["labels"][market] == "on-demand"
    assert [group["labels"][market] for group in cluster["workerGroupSpecs"]] == ["spot"]
    assert cluster["workerGroupSpecs"][0]["minReplicas"] < cluster["workerGroupSpecs"][0]["maxReplicas"]
    settings = tomllib.loads((K8S / "overlays/production/settings.toml").read_text(encoding="utf-8"))
    group = cluster["workerGroupSpecs"][0]
    processors = int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    assert settings["engine"]["max_workers"] == group["maxReplicas"] * processors


# Broken copies

Change = Callable[[dict[str, Any]], None]
GONE = object()
"""Takes a key away."""


@dataclass(frozen=True)
class Broken:
    """A change of one document, and the words of the refusal."""

    name: str  # kind, or kind/name
    path: str  # keys with dots between them; / in a key with dots
    value: Any
    reason: str
    where: str = ALL
    needs_crds: bool = False

    def __str__(self) -> str:
        return f"{self.name} {self.path}"

    def copies(self, documents: Sequence[Document]) -> list[Document]:
        """The documents, one of which is broken."""
        result: list[Any] = [deepcopy(dict(document)) for document in documents]
        target = next(one for one in result if self.name in (one["kind"], label(one)))
        *parents, last = self.path.split(" ")
        for key in parents:
            target = target[int(key)] if isinstance(target, list) else target[key]
        index: Any = int(last) if isinstance(target, list) else last
        if self.value is GONE:
            del target[index]
        else:
            target[index] = self.value
        return result


SPEC = "spec rayClusterSpec"
HEAD = f"{SPEC} headGroupSpec"
HEAD_POD = f"{HEAD} template spec"
HEAD_CONTAINER = f"{HEAD_POD} containers 0"
WORKERS = f"{SPEC} workerGroupSpecs 0"
WORKER = f"{WORKERS} template spec containers 0"
SUBMITTER = "spec submitterPodTemplate spec"
POSTGRES = "spec template spec containers 0"

BROKEN = [
    Broken("Namespace", "metadata labels pod-security.kubernetes.io/enforce", "baseline", "restricted standard"),
    Broken("Namespace", "metadata name", 5, "is not of type 'string'"),
    Broken("ServiceAccount/geopipe", "metadata name", "other", "there is no ServiceAccount/geopipe"),
    Broken("ServiceAccount/geopipe", "automountServiceAccountToken", "no", "'no' is not of type 'boolean'"),
    Broken("ServiceAccount/geopipe", "automountServiceAccountToken", True, "gives each pod a token"),
    Broken("ConfigMap/geopipe-settings", "metadata name", "settings", "there is no ConfigMap/geopipe-settings"),
    Broken("ConfigMap/geopipe-settings", "data settings.toml", {"run": {}}, "is not of type 'string'"),
    Broken("ConfigMap/geopipe-settings", "metadata namespace", "default", "is not in the namespace"),
    Broken("PersistentVolumeClaim", "metadata name", "data", "there is no PersistentVolumeClaim/geopipe-data"),
    Broken("PersistentVolumeClaim", "spec accessMode", "ReadWriteMany", "'accessMode' was unexpected"),
    Broken("PodDisruptionBudget", "spec selector matchLabels app.kubernetes.io/component", "boss", "no pod matches"),
    Broken("PodDisruptionBudget", "spec maxUnavailabel", 0, "'maxUnavailabel' was unexpected"),
    Broken("NetworkPolicy/dns", "spec egress 0 ports 0 port", {}, "is not"),
    Broken("NetworkPolicy/dns", "spec policyType", ["Egress"], "'policyType' was unexpected"),
    Broken("NetworkPolicy/prometheus", "spec ingress 0 ports 0 port", "metric", "no pod has the port metric"),
    Broken("NetworkPolicy/postgres", "spec podSelector matchLabels app.kubernetes.io/part-of", "geo", "no pod matches"),
    Broken("NetworkPolicy/kuberay-operator", "metadata namespace", GONE, "is not in the namespace"),
    Broken("Role", "rules 0 verbs", ["*"], "allows more"),
    Broken("Role", "rules 0 resources", ["secrets"], "allows more"),
    Broken("Role", "rules 0 verb", ["get"], "'verb' was unexpected"),
    Broken("RoleBinding", "roleRef name", "admin", "there is no Role/admin"),
    Broken("RoleBinding", "subjects 0 kinds", "User", "'kinds' was unexpected"),
    Broken("Service", "spec ports 0 targetPort", "web", "no pod has the port web"),
    Broken("Service", "spec selectors", {}, "'selectors' was unexpected"),
    Broken("Deployment", "spec template spec hostNetwork", True, "hostNetwork is on"),
    Broken("Deployment", "spec template spec containers 0 image", "historyserver", "no image with a version"),
    Broken("Deployment", "spec replica", 1, "'replica' was unexpected"),
    Broken("ExternalSecret", "spec refreshIntervall", "1h", "'refreshIntervall' was unexpected"),
    Broken("ExternalSecret", "spec data 0 remoteRef key", GONE, "'key' is a required property"),
    Broken("PodMonitor", "spec selector matchLabels app.kubernetes.io/part-of", "geo", "no pod matches"),
    Broken("PodMonitor", "spec podMetricsEndpoints 0 port", "metric", "no pod has the port metric"),
    Broken("PodMonitor", "spec podMetricEndpoints", [], "'podMetricEndpoints' was unexpected", needs_crds=True),
    Broken("PrometheusRule", "spec groups 0 rules 0 expr", GONE, "'expr' is a required property", needs_crds=True),
    Broken("PrometheusRule", "spec groups 0 interval", "often", "does not match", needs_crds=True),
    Broken("StatefulSet", "spec serviceName", "database", "there is no Service/database", "dev"),
    Broken("StatefulSet", f"{POSTGRES} securityContext capabilities", {}, "keeps capabilities", "dev"),
    Broken("StatefulSet", f"{POSTGRES} volumeMounts 0 name", "disk", "mounts disk, which is no volume", "dev"),
    Broken("StatefulSet", f"{POSTGRES} resources limits", GONE, "requests and limits differ", "dev"),
    Broken("StatefulSet", f"{POSTGRES} port", 5432, "'port' was unexpected", "dev"),
    # the CRDs
    Broken("RayJob", "spec backofLimit", 2, "'backofLimit' was unexpected", needs_crds=True),
    Broken("RayJob", "spec activeDeadlineSeconds", "1d", "'1d' is not of type 'integer'", needs_crds=True),
    Broken("RayJob", f"{SPEC} headGroupSpec template spec container", [], "'container' was unexpected"),
    Broken("RayJob", f"{HEAD} rayStartParams num-cpus", 0, "0 is not of type 'string'", needs_crds=True),
    Broken("RayJob", f"{SPEC} autoscalerOptions version", "v3", "'v3' is not one of", needs_crds=True),
    Broken("RayJob", "spec managedBy", "me", "managedBy field value must be either", needs_crds=True),
    Broken("RayJob", "spec deletionStrategy", {}, "deletionStrategy requires either BOTH", needs_crds=True),
    Broken(
        "RayJob",
        "spec deletionStrategy",
        {"deletionRules": [{"policy": "DeleteSelf", "condition": {"ttlSeconds": 5}}]},
        "requires either the JobStatus or the JobDeploymentStatus",
        needs_crds=True,
    ),
    # KubeRay, Kueue, Ray
    Broken("RayJob", "metadata name", "g" * 48, "more than 47 characters"),
    Broken("RayJob", "metadata name", "2-runs", "no DNS-1035 label"),
    Broken("RayJob", "spec shutdownAfterJobFinishes", False, "needs shutdownAfterJobFinishes"),
    Broken("RayJob", "spec deletionStrategy", {"deletionRules": [{}]}, "deletionRules excludes"),
    Broken("RayJob", "spec clusterSelector", {"a": "b"}, "suspend excludes clusterSelector", "kueue"),
    Broken("RayJob", f"{SPEC} enableInTreeAutoscaling", True, "no RayJob with autoscaling", "kueue"),
    Broken("RayJob", "spec suspend", False, "begins suspended", "kueue"),
    Broken("RayJob", f"{WORKERS} maxReplicas", 9, "nothing scales the cluster", "kueue"),
    Broken("RayJob", f"{SPEC} authOptions enableK8sTokenAuth", True, "enableK8sTokenAuth is refused"),
    Broken("RayJob", f"{SPEC} authOptions mode", "disabled", "mode is not token"),
    Broken("RayJob", f"{SPEC} authOptions secretName", "token", "there is no Secret/token"),
    Broken("RayJob", f"{SPEC} rayVersion", GONE, "needs rayVersion"),
    Broken("RayJob", f"{WORKERS} template spec restartPolicy", "Always", "must be Never"),
    Broken("RayJob", f"{WORKERS} rayStartParams labels", "a=b", "labels belong to the group"),
    Broken("RayJob", f"{WORKERS} rayStartParams object-store", "1", "no option --object-store"),
    Broken("RayJob", f"{WORKERS} replicas", 99, "not between minReplicas and maxReplicas"),
    # a run on Kubernetes
    Broken("RayJob", "spec submissionMode", "SidecarMode", "SidecarMode excludes submitterPodTemplate"),
    Broken("RayJob", "spec submitterPodTemplate", GONE, "submitterPodTemplate is missing"),
    Broken("RayJob", "spec preRunningDeadlineSeconds", GONE, "preRunningDeadlineSeconds is missing"),
    Broken("RayJob", "spec activeDeadlineSeconds", GONE, "activeDeadlineSeconds is missing"),
    Broken("RayJob", "spec entrypointNumCpus", 1, "entrypointNumCpus never fits"),
    Broken("RayJob", "spec entrypoint", "geopipe k8s entrypoint a.toml; id", "entrypoint, which a shell reads"),
    Broken("RayJob", "spec entrypoint", "geopipe run a.toml --resume", "entrypoint, which a shell reads"),
    Broken("RayJob", f"{HEAD} rayStartParams num-cpus", "4", "num-cpus is not 0"),
    Broken("RayJob", f"{HEAD} labels", {"ray.io/market-type": "spot"}, "the head is on a spot machine"),
    Broken("RayJob", f"{HEAD} template metadata annotations", {}, "safe-to-evict"),
    Broken("RayJob", f"{WORKER} resources requests cpu", "1", "requests and limits differ"),
    Broken("RayJob", f"{WORKER} name", "sidecar", "first container is not Ray's"),
    Broken("RayJob", f"{WORKERS} template spec volumes 2 emptyDir medium", "", "/dev/shm is no emptyDir in memory"),
    Broken("RayJob", f"{WORKERS} template spec volumes 2 emptyDir sizeLimit", "1Gi", "smaller than the object store"),
    Broken("RayJob", f"{WORKERS} template spec volumes 3 emptyDir sizeLimit", "99Gi", "beyond the limit of ephemeral"),
    Broken("RayJob", f"{WORKERS} rayStartParams object-spilling-directory", "/other", "no mount of the container"),
    Broken("RayJob", f"{WORKERS} rayStartParams memory", "30000000000", "less than 1 GiB"),
    Broken("RayJob", f"{SPEC} autoscalerOptions version", "v1", "version is not v2"),
    Broken("RayJob", f"{SPEC} autoscalerOptions resources limits memory", "512Mi", "less than 1Gi"),
    Broken("RayJob", f"{SPEC} autoscalerOptions securityContext", {}, "autoscaler may gain privileges"),
    # pods
    Broken("RayJob", f"{HEAD_CONTAINER} imagePullPolicies", "Always", "'imagePullPolicies' was unexpected"),
    Broken("RayJob", f"{HEAD_CONTAINER} securityContext privileged", True, "is privileged"),
    Broken("RayJob", f"{HEAD_CONTAINER} securityContext readOnlyRootFilesystem", False, "may write to its image"),
    Broken("RayJob", f"{HEAD_POD} securityContext runAsUser", 0, "may run as root"),
    Broken("RayJob", f"{HEAD_POD} securityContext seccompProfile", GONE, "no seccomp profile"),
    Broken("RayJob", f"{HEAD_POD} volumes 1", {"name": "data", "hostPath": {"path": "/data"}}, "hostPath is forbidden"),
    Broken("RayJob", f"{SUBMITTER} securityContext", GONE, "submitter: may run as root"),
    Broken("RayJob", f"{SUBMITTER} initContainers 0 securityContext", GONE, "migrate may gain privileges"),
    Broken("RayJob", f"{SUBMITTER} automountServiceAccountToken", True, "gets a token of Kubernetes"),
    Broken("RayJob", f"{SUBMITTER} initContainers 0 envFrom 0 secretRef name", "db", "there is no Secret/db"),
    Broken("RayJob", f"{SUBMITTER} containers 0 image", "geopipe:latest", "no image with a version"),
    Broken("RayCluster", "metadata name", "g" * 54, "more than 53 characters", "interactive"),
    Broken("RayCluster", "spec authOptions mode", "disabled", "mode is not token", "interactive"),
    Broken("RayCluster", "spec rayVersions", "2.60.0", "'rayVersions' was unexpected", "interactive", needs_crds=True),
]


@pytest.mark.parametrize("broken", BROKEN, ids=str)
def test_broken_copy_is_refused_with_the_reason(broken: Broken, everything: Sequence[Document]) -> None:
    if broken.needs_crds and schemas.CRDS is None:
        pytest.skip(schemas.NO_CRDS)
    sound = everything if broken.where == ALL else overlay(broken.where)
    messages = problems(broken.copies(sound))
    assert [message for message in messages if broken.reason in message], messages


def test_each_kind_has_a_broken_copy(everything: Sequence[Document]) -> None:
    kinds = {one["kind"] for name in OVERLAYS for one in overlay(name)} | {one["kind"] for one in everything}
    assert kinds == {broken.name.partition("/")[0] for broken in BROKEN}
