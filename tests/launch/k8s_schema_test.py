"""Manifests against Kubernetes' own schemas, and JobSet's.

An unknown key is an error: `kubernetes-validate` refuses it, and the models of
JobSet drop it, so that what they hold is not what they were given.
"""

import copy

import pytest

from launch.k8s import manifests, settings
from tests.launch import kubelet

pytestmark = pytest.mark.cluster

# From the first whose Jobs count the failures of an index, on.
_VERSIONS = ("1.29", "1.31", "1.33", "1.35", "1.37")
_EVERYTHING = {
  "tasks": 3, "cpu": "4", "memory": "16Gi", "spot": True, "claim": "shared",
  "workdir": "/data/runs/x", "service_account": "writer", "namespace": "lab",
  "env": {"A": "yes"}, "labels": {"team": "x"}, "node_selector": {"p": "big"},
  "tolerations": ("dedicated=spex:NoExecute", "other"),
}  # fmt: skip
_TPU = {"tpu_accelerator": "tpu-v6e-slice", "tpu_topology": "4x4"}
_CASES = {
  "plain": {},
  "everything": {**_EVERYTHING, "gpus": 2, "parallelism": 2, "max_failed": 1},
  "image": {"config_in_image": True, "ttl": None},
  "slices": {"kind": "jobset", "hosts": 2, "gpus": 8, **_EVERYTHING},
  "tpus": {"kind": "jobset", "tasks": 2, **_TPU},
}


def _documents(name):
  return manifests.documents(
    settings.Settings(
      **{
        "config": str(kubelet.ROOT / "tests/launch/sweep_sums.py"),
        "workdir": "gs://bucket/x", "image": "i", "name": "sums",
      }
      | _CASES[name]
    )
  )  # fmt: skip


def _validate(document, version):
  import kubernetes_validate

  kubernetes_validate.validate(document, version, strict=True)


def _validate_jobset(document, version):
  """The set by JobSet's models, the job inside it as a Job of Kubernetes."""
  from kubeflow_trainer_api import models

  found = models.JobsetV1alpha2JobSet.from_dict(copy.deepcopy(document))
  assert found.to_dict() == document
  (replicated,) = document["spec"]["replicatedJobs"]
  job = {"apiVersion": "batch/v1", "kind": "Job", **replicated["template"]}
  job["metadata"] = {"name": "x", **job["metadata"]}
  _validate(job, version)


@pytest.mark.parametrize("version", _VERSIONS)
@pytest.mark.parametrize("name", _CASES)
def test_kubernetes_takes_every_manifest(name, version):
  for document in _documents(name):
    if document["kind"] == "JobSet":
      _validate_jobset(document, version)
    else:
      _validate(document, version)


def _set(document, path, value):
  *parents, last = path
  for part in parents:
    document = document[part]
  document[last] = value


@pytest.mark.parametrize(
  ("path", "value"),
  [
    (("spec", "backoffLimitPerIndices"), 3),
    (("spec", "completions"), "3"),
    (("spec", "template", "spec", "gracePeriod"), 3),
    (("spec", "template", "spec", "containers", 0, "command"), "spex"),
    (("spec", "podFailurePolicy", "rules", 0, "onPodConditions"), [{}]),
  ],
)
def test_the_schema_of_a_job_sees_mistakes(path, value):
  import kubernetes_validate

  document = _documents("plain")[-1]
  _set(document, path, value)
  with pytest.raises(kubernetes_validate.ValidationError):
    _validate(document, _VERSIONS[-1])


@pytest.mark.parametrize(
  ("path", "value"),
  [
    (("spec", "failurePolicy", "maxRestart"), 3),
    (("spec", "failurePolicy", "maxRestarts"), "3"),
    (("spec", "replicatedJobs", 0, "replica"), 1),
    (("spec", "network", "enableDNSHostname"), True),
    (("spec", "replicatedJobs", 0, "template", "spec", "completion"), 1),
  ],
)
def test_the_models_of_a_jobset_see_mistakes(path, value):
  document = _documents("tpus")[-1]
  _set(document, path, value)
  with pytest.raises((AssertionError, ValueError)):
    _validate_jobset(document, _VERSIONS[-1])
