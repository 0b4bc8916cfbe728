"""One pod of a sweep: its command, variables, devices and volumes."""

from collections.abc import Mapping
from typing import Any

from launch.k8s import settings

CONTAINER = "sweep"
# Asked to end: by SIGTERM behind a shard (EX_TEMPFAIL), or before the first.
ASKED_TO_END = (75, 143)
NOT_MENDED = 1  # Trying again gives the same.

_SPOT = "cloud.google.com/gke-spot"
_TPU = "google.com/tpu"
_GPU = "nvidia.com/gpu"
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_GROUP = 1000  # Of the image's user, who writes to a volume.


def template(
  wanted: settings.Settings,
  *,
  join: tuple[str, ...] = (),
  env: Mapping[str, str],
  labels: Mapping[str, str],
  config_map: str | None,
) -> dict[str, Any]:
  """The pod of a task, or of a host of it.

  Args:
    wanted: the launch.
    join: flags by which the processes of a slice find each other.
    env: variables that say which task this is.
    labels: of the pod.
    config_map: that holds the sweep's file, if any.

  Raises:
    ValueError: a toleration that is none.
  """
  container: dict[str, Any] = {
    "name": CONTAINER,
    "image": wanted.image,
    "command": [
      "spex",
      "sweep",
      "run",
      _as_is(f"--config={wanted.config_in_pod}"),
      _as_is(f"--workdir={wanted.workdir}"),
      *join,
      *map(_as_is, wanted.extra),
    ],
    "env": [
      {"name": name, "value": _as_is(value)}
      for name, value in {**_platforms(wanted), **wanted.env, **env}.items()
    ],
    "resources": _resources(wanted),
  }
  pod: dict[str, Any] = {
    "restartPolicy": "Never",
    # Process 1 of a container ignores SIGTERM until it has a handler; with
    # this, `spex` is not process 1, and ends while it still imports, too.
    "shareProcessNamespace": True,
    "terminationGracePeriodSeconds": wanted.grace,
    "containers": [container],
  }
  if wanted.tpu:
    # The device nodes of TPUs belong to root.
    container["securityContext"] = {"runAsUser": 0}
  if wanted.service_account:
    pod["serviceAccountName"] = wanted.service_account
  volumes, mounts = _volumes(wanted, config_map)
  if volumes:
    pod["volumes"], container["volumeMounts"] = volumes, mounts
  if wanted.claim:
    pod["securityContext"] = {
      "fsGroup": _GROUP, "fsGroupChangePolicy": "OnRootMismatch",
    }  # fmt: skip
  selector = _node_selector(wanted)
  if selector:
    pod["nodeSelector"] = selector
  tolerations = _tolerations(wanted)
  if tolerations:
    pod["tolerations"] = tolerations
  return {"metadata": {"labels": dict(labels)}, "spec": pod}


def _as_is(text: str) -> str:
  """Text in which Kubernetes puts no variable in place of `$(NAME)`."""
  return text.replace("$(", "$$(")


def _platforms(wanted: settings.Settings) -> dict[str, str]:
  """An image without the plugin of its device fails, and takes no CPU."""
  if wanted.tpu:
    return {"JAX_PLATFORMS": "tpu,cpu"}
  return {"JAX_PLATFORMS": "cuda,cpu"} if wanted.gpus else {}


def _resources(wanted: settings.Settings) -> dict[str, Any]:
  """Requests and limits; devices are limits, which are requests, too."""
  requests, limits = {}, {}
  if wanted.cpu:
    requests["cpu"] = wanted.cpu
  if wanted.memory:
    # Of memory more than was asked for may not be there.
    requests["memory"] = limits["memory"] = wanted.memory
  if wanted.gpus:
    limits[_GPU] = str(wanted.gpus)
  if wanted.tpu:
    limits[_TPU] = str(wanted.chips_per_host)
  both = {"requests": requests, "limits": limits}
  return {name: values for name, values in both.items() if values}


def _volumes(
  wanted: settings.Settings, config_map: str | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
  volumes: list[dict[str, Any]] = []
  mounts: list[dict[str, Any]] = []
  if config_map:
    volumes.append({"name": "config", "configMap": {"name": config_map}})
    mounts.append(
      {"name": "config", "mountPath": settings.CONFIG_FOLDER, "readOnly": True}
    )
  if wanted.claim:
    claim = {"claimName": wanted.claim}
    volumes.append({"name": "workdir", "persistentVolumeClaim": claim})
    mounts.append({"name": "workdir", "mountPath": wanted.mount})
  return volumes, mounts


def _node_selector(wanted: settings.Settings) -> dict[str, str]:
  found = dict(wanted.node_selector)
  if wanted.spot:
    found[_SPOT] = "true"
  if wanted.tpu:
    found["cloud.google.com/gke-tpu-accelerator"] = wanted.tpu_accelerator
    found["cloud.google.com/gke-tpu-topology"] = wanted.tpu_topology
  return found


def _tolerations(wanted: settings.Settings) -> list[dict[str, str]]:
  found = [_toleration(text) for text in wanted.tolerations]
  if wanted.spot:
    found.append(_toleration(f"{_SPOT}=true:NoSchedule"))
  for device, asked in ((_GPU, wanted.gpus), (_TPU, wanted.tpu)):
    if asked:  # Nodes with devices are tainted by the devices' name.
      found.append(_toleration(f"{device}:NoSchedule"))
  return found


def _toleration(text: str) -> dict[str, str]:
  """`KEY[=VALUE][:EFFECT]`.

  Raises:
    ValueError: none.
  """
  rest, _, effect = text.partition(":")
  key, equals, value = rest.partition("=")
  if not key or (effect and effect not in _EFFECTS):
    raise ValueError(
      f"--toleration={text!r}: give KEY[=VALUE][:EFFECT] with an effect of "
      f"{', '.join(_EFFECTS)}."
    )
  found = {"key": key, "operator": "Equal" if equals else "Exists"}
  if equals:
    found["value"] = value
  if effect:
    found["effect"] = effect
  return found
