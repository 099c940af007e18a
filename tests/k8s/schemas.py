"""Manifests against the schemas of Kubernetes, closed: a key that a schema does not know is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import celpy
import jsonschema
import kubernetes_validate
import yaml
from manifests import Document, label, pods

VERSION = "1.34"
"""Of Kubernetes, whose schemas count."""
CRDS = os.environ.get("GEOPIPE_CRD_DIR")
NO_CRDS = "GEOPIPE_CRD_DIR names no folder with the CRDs of KubeRay 1.7 and of the Prometheus operator"
CUSTOM = {"RayJob", "RayCluster", "PodMonitor", "PrometheusRule"}

EXTERNAL_SECRET = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "external-secrets.io/v1"},
        "kind": {"const": "ExternalSecret"},
        "metadata": {"type": "object"},
        "spec": {
            "type": "object",
            "additionalProperties": False,
            "required": ["secretStoreRef", "target", "data"],
            "properties": {
                "refreshInterval": {"type": "string", "pattern": "^[0-9]+[smh]$"},
                "secretStoreRef": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["name"],
                    "properties": {
                        "name": {"type": "string"},
                        "kind": {"enum": ["SecretStore", "ClusterSecretStore"]},
                    },
                },
                "target": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "name": {"type": "string"},
                        "creationPolicy": {"enum": ["Owner", "Orphan", "Merge", "None"]},
                    },
                },
                "data": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["secretKey", "remoteRef"],
                        "properties": {
                            "secretKey": {"type": "string"},
                            "remoteRef": {
                                "type": "object",
                                "additionalProperties": False,
                                "required": ["key"],
                                "properties": {"key": {"type": "string"}, "property": {"type": "string"}},
                            },
                        },
                    },
                },
            },
        },
    },
}
"""The shape that the External Secrets operator documents, as far as the example needs it."""


def built_in(document: Document) -> Iterator[str]:
    """What Kubernetes' own schemas refuse: of the document, and of the pods in it."""
    if document["kind"] == "ExternalSecret":
        yield from of_schema(document, EXTERNAL_SECRET)
    elif document["kind"] not in CUSTOM:
        yield from strict(document, label(document))
    for pod in pods(document):
        spec = {"restartPolicy": "Always", **pod.spec}
        if pod.claims:
            spec["volumes"] = [*spec.get("volumes", ()), *({"name": claim, "emptyDir": {}} for claim in pod.claims)]
        wrapped = {"apiVersion": "v1", "kind": "Pod", "metadata": pod.template.get("metadata", {}), "spec": spec}
        yield from strict(wrapped, pod.where)


def strict(document: Document, where: str) -> Iterator[str]:
    return (f"{where}: {message}" for message in refusals(json.dumps(document)))


@cache
def refusals(text: str) -> tuple[str, ...]:
    """What Kubernetes' schemas refuse of a document as JSON; cached, since most of a broken copy is sound."""
    try:
        kubernetes_validate.validate(json.loads(text), VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return (f"{'/'.join(map(str, error.path))}: {error.message}",)
    except kubernetes_validate.SchemaNotFoundError as error:
        return (error.message,)
    return ()


def of_schema(document: Document, schema: Mapping[str, Any]) -> Iterator[str]:
    for error in jsonschema.Draft202012Validator(schema).iter_errors(document):
        yield f"{label(document)}: {'/'.join(map(str, error.path))}: {error.message}"


def custom(document: Document) -> Iterator[str]:
    """What a CRD refuses, by its schema or by a rule in CEL. Needs GEOPIPE_CRD_DIR."""
    if document["kind"] not in CUSTOM:
        return
    version = document["apiVersion"].rpartition("/")[2]
    schema = definitions().get((document["kind"], version))
    if schema is None:
        yield f"{label(document)}: no CRD for {document['apiVersion']}"
        return
    yield from of_schema(document, closed_definition(document["kind"], version))
    yield from broken_rules(document, schema, label(document))


@cache
def closed_definition(kind: str, version: str) -> dict[str, Any]:
    return closed(definitions()[kind, version])


@cache
def definitions() -> dict[tuple[str, str], dict[str, Any]]:
    """The schemas of all CRDs by kind and version."""
    assert CRDS is not None, NO_CRDS
    result = {}
    for path in sorted(Path(CRDS).glob("*.yaml")):
        spec = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)["spec"]
        for version in spec["versions"]:
            result[spec["names"]["kind"], version["name"]] = version["schema"]["openAPIV3Schema"]
    return result


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A CRD's schema as JSON schema that refuses unknown keys.

    Keys under x-kubernetes-preserve-unknown-fields stay free, and so does an object without properties, as the metadata
    of a document. A required key that has a default may lack.
    """
    result = {key: value for key, value in schema.items() if not key.startswith("x-") and key != "format"}
    properties = schema.get("properties", {})
    if properties:
        result["properties"] = {name: closed(value) for name, value in properties.items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            result.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), Mapping):
            result[key] = closed(schema[key])
    if "required" in schema:
        result["required"] = [name for name in schema["required"] if "default" not in properties.get(name, {})]
    if schema.get("x-kubernetes-int-or-string"):
        result["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if schema.get("nullable"):
        result = {"anyOf": [{"type": "null"}, result]}
    return result


def broken_rules(value: Any, schema: Mapping[str, Any], where: str) -> Iterator[str]:
    """The rules in CEL that a value breaks, and those that its parts break. A rule with oldSelf is one of changes."""
    for rule in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" not in rule["rule"] and not program(rule["rule"]).evaluate({"self": celpy.json_to_cel(value)}):
            yield f"{where}: {rule.get('message', rule['rule'])}"
    if isinstance(value, Mapping):
        free = schema.get("additionalProperties")
        for key, part in value.items():
            below = schema.get("properties", {}).get(key, free)
            if isinstance(below, Mapping):
                yield from broken_rules(part, below, f"{where}/{key}")
    elif isinstance(value, Sequence) and not isinstance(value, str) and "items" in schema:
        for index, part in enumerate(value):
            yield from broken_rules(part, schema["items"], f"{where}/{index}")


@cache
def program(rule: str) -> celpy.Runner:
    environment = celpy.Environment()
    return environment.program(environment.compile(rule))
