#!/usr/bin/env bash
# Validates launch/kubernetes_jobset.yaml: its Job by Kubernetes' own schemas, and all of it by JobSet's definition.
#
#   tests/cluster/kubernetes.sh [jobset.x-k8s.io_jobsets.yaml]     needs the package index; a minute
#
# The definition is in JobSet's repository, config/components/crd/bases; without it the Job alone is validated. Fields
# that a schema does not know are errors. Rules in CEL, which only a cluster evaluates, are not run.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet kubernetes-validate==1.37.0 jsonschema==4.26.0 pyyaml==6.0.3
"$dir/venv/bin/python" - "$root/launch/kubernetes_jobset.yaml" "$@" <<'END'
import sys

import jsonschema
import kubernetes_validate
import yaml


def make_strict(schema):
    """Has a schema refuse fields that it does not know."""
    if isinstance(schema, list):
        for part in schema:
            make_strict(part)
    elif isinstance(schema, dict):
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        if schema.get("x-kubernetes-int-or-string"):
            schema.pop("type", None)
        for part in schema.values():
            make_strict(part)


jobset = yaml.safe_load(open(sys.argv[1]))
for job in jobset["spec"]["replicatedJobs"]:
    spec = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}, "spec": job["template"]["spec"]}
    for version in ("1.31", "1.37"):
        kubernetes_validate.validate(spec, version, strict=True)
        print(f"the Job {job['name']!r} is valid in Kubernetes {version}")
if len(sys.argv) > 2:
    definition = yaml.safe_load(open(sys.argv[2]))
    version = next(v for v in definition["spec"]["versions"] if f"jobset.x-k8s.io/{v['name']}" == jobset["apiVersion"])
    schema = version["schema"]["openAPIV3Schema"]
    make_strict(schema)
    schema["properties"]["metadata"] = {"type": "object"}
    jsonschema.Draft7Validator(schema).validate(jobset)
    print(f"the JobSet is valid by its definition, {version['name']}")
END
