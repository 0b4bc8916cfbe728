"""The Job, the JobSets and the ConfigMap of a sweep, as dictionaries.

Needs Kubernetes from 1.29 on, whose Jobs count failures of each index; for
slices JobSet (jobset.x-k8s.io/v1alpha2), too.

A pod that is evicted, preempted or asked to end is replaced and not counted; a
crash is counted against its own task; exit code 1 is bad input, and fails at
once. What is done is read from the workdir, so a pod may come back at any time.
"""

import hashlib
from typing import Any

from launch.k8s import pods, settings

_EXCLUSIVE = "alpha.jobset.sigs.k8s.io/exclusive-topology"
_NODE_POOL = "cloud.google.com/gke-nodepool"
_SLICE = "slice"  # The name of a JobSet's one replicated job.


def documents(wanted: settings.Settings) -> list[dict[str, Any]]:
  """All objects, in the order in which they are created.

  Raises:
    ValueError: as `settings.Settings.check`, and a toleration that is none.
  """
  wanted.check()
  found = []
  name = None
  if not wanted.config_in_image:
    found.append(config_map(wanted))
    name = found[0]["metadata"]["name"]
  if wanted.kind == "job":
    return [*found, job(wanted, name)]
  return [*found, *(jobset(wanted, i, name) for i in range(wanted.tasks))]


def config_map(wanted: settings.Settings) -> dict[str, Any]:
  """The sweep's file, under a name by its hash: another file, another name.

  Raises:
    ValueError: a file that is no text.
  """
  file = wanted.config_file
  content = file.read_bytes()
  try:
    text = content.decode()
  except UnicodeDecodeError as error:
    raise ValueError(f"{file} is no UTF-8 text: {error}.") from error
  digest = hashlib.sha256(content).hexdigest()[:10]
  return {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": _metadata(wanted, f"{wanted.name}-{digest}"),
    "immutable": True,
    "data": {file.name: text},
  }


def job(wanted: settings.Settings, config: str | None) -> dict[str, Any]:
  """An Indexed Job: a task is an index, and one pod at a time.

  Args:
    wanted: the launch, checked.
    config: name of the ConfigMap, if there is one.
  """
  ignored = [
    {
      "action": "Ignore",
      "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
    },
    {"action": "Ignore", "onExitCodes": _codes(*pods.ASKED_TO_END)},
  ]
  spec: dict[str, Any] = {
    "completionMode": "Indexed",
    "completions": wanted.tasks,
    "parallelism": min(wanted.parallelism or wanted.tasks, wanted.tasks),
    "backoffLimitPerIndex": wanted.retries,
    "podFailurePolicy": {
      "rules": [
        *ignored,
        {"action": "FailIndex", "onExitCodes": _codes(pods.NOT_MENDED)},
      ]
    },
    # A task has its next pod when the last one has ended, not while it ends.
    "podReplacementPolicy": "Failed",
    "template": pods.template(
      wanted,
      env={"SPEX_TASK_COUNT": str(wanted.tasks)},
      labels=_labels(wanted),
      config_map=config,
    ),
  }
  if wanted.max_failed is not None:
    spec["maxFailedIndexes"] = wanted.max_failed
  if wanted.ttl is not None:
    spec["ttlSecondsAfterFinished"] = wanted.ttl
  return {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": _metadata(wanted, wanted.name),
    "spec": spec,
  }


def jobset(
  wanted: settings.Settings, task: int, config: str | None
) -> dict[str, Any]:
  """The JobSet of one task: a slice, which starts and restarts as a whole.

  One for each task, and not one for all with so many replicas: GKE tells the
  slices of one JobSet that they are one machine (`MEGASCALE_NUM_SLICES`), and a
  preempted slice would restart every other.

  Args:
    wanted: the launch, checked.
    task: its number.
    config: name of the ConfigMap, if there is one.
  """
  name = f"{wanted.name}-{task}"
  hosts = wanted.num_hosts
  child = {
    "completionMode": "Indexed",
    "completions": hosts,
    "parallelism": hosts,
    # The processes of a slice are joined: none comes back alone.
    "backoffLimit": 0,
    "podFailurePolicy": {
      "rules": [
        {"action": "FailJob", "onExitCodes": _codes(pods.NOT_MENDED)}
      ]
    },
    "template": pods.template(
      wanted,
      join=_join(wanted, f"{name}-{_SLICE}-0-0.{name}"),
      # JOB_COMPLETION_INDEX is the number of the host here.
      env={
        "SPEX_TASK_INDEX": str(task), "SPEX_TASK_COUNT": str(wanted.tasks),
      },
      labels=_labels(wanted),
      config_map=config,
    ),
  }  # fmt: skip
  metadata = _metadata(wanted, name)
  if wanted.tpu:  # A slice of TPUs is one pool of nodes.
    metadata["annotations"] = {_EXCLUSIVE: _NODE_POOL}
  spec: dict[str, Any] = {
    "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
    "failurePolicy": {
      "maxRestarts": wanted.restarts,
      "rules": [
        {
          "name": "exit_code_1",
          "action": "FailJobSet",
          "onJobFailureReasons": ["PodFailurePolicy"],
        }
      ],
    },
    "replicatedJobs": [
      {
        "name": _SLICE,
        "replicas": 1,
        "template": {"metadata": {"labels": _labels(wanted)}, "spec": child},
      }
    ],
  }
  if wanted.ttl is not None:
    spec["ttlSecondsAfterFinished"] = wanted.ttl
  return {
    "apiVersion": "jobset.x-k8s.io/v1alpha2",
    "kind": "JobSet",
    "metadata": metadata,
    "spec": spec,
  }


def _join(wanted: settings.Settings, first: str) -> tuple[str, ...]:
  """How the processes of a slice find each other: at its first pod."""
  if wanted.num_hosts == 1:
    return ()
  timeout = f"--timeout={wanted.join_timeout}"  # Images are slow to arrive.
  if wanted.tpu:  # GKE tells them.
    return ("--distributed", timeout)
  return (
    f"--coordinator={first}:{wanted.port}",
    "--process_id=$(JOB_COMPLETION_INDEX)",
    f"--num_processes={wanted.num_hosts}",
    timeout,
  )


def _codes(*values: int) -> dict[str, Any]:
  return {
    "containerName": pods.CONTAINER,
    "operator": "In",
    "values": sorted(values),
  }


def _labels(wanted: settings.Settings) -> dict[str, str]:
  return {
    "app.kubernetes.io/name": "spex",
    "app.kubernetes.io/instance": wanted.name,
    **wanted.labels,
  }


def _metadata(wanted: settings.Settings, name: str) -> dict[str, Any]:
  found: dict[str, Any] = {"name": name, "labels": _labels(wanted)}
  if wanted.namespace:
    found["namespace"] = wanted.namespace
  return found
