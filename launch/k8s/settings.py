"""What is asked for of a cluster, and whether it can be.

Words: a task is one part of the sweep. A `job` gives each task one pod. A
`jobset` gives each task a slice: several hosts, one pod on each, whose
processes join and share the task.
"""

import dataclasses
import math
import pathlib
import re
from collections.abc import Mapping, Sequence

KINDS = ("job", "jobset")
# What the pod reads; the rest of its file system is the image's.
CONFIG_FOLDER = "/etc/spex"

_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_VALUE = re.compile(r"[A-Za-z0-9]([-._A-Za-z0-9]{0,61}[A-Za-z0-9])?")
_KEY = re.compile(r"[-._a-zA-Z0-9]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OURS = ("SPEX_TASK_INDEX", "SPEX_TASK_COUNT", "JOB_COMPLETION_INDEX")
# A pod's name ends in its indices and six characters of chance.
_MAX_NAME, _CHANCE = 63, 6
# Kubernetes counts the failures of each index up to here.
_MAX_TASKS = 100_000
_MAX_CONFIG = 1 << 20  # Bytes of a ConfigMap.


@dataclasses.dataclass(frozen=True)
class Settings:
  """A launch.

  Attributes:
    config: file of the sweep, `FILE[:SIZE]`: here, or in the image.
    workdir: of the sweep: a URL, or a path inside `mount`.
    image: of the containers; it has the command `spex`.
    name: of the objects; a JobSet adds the number of its task.
    kind: of `KINDS`.
    extra: more flags of `spex sweep run`.
    tasks: parts of the sweep.
    parallelism: of a job, tasks at once.
    hosts: of a slice.
    cpu, memory: of a pod, as Kubernetes writes them; "" asks for none.
    gpus: of a pod.
    tpu_accelerator, tpu_topology: of a slice, as GKE labels its nodes.
    chips_per_host: of a slice of TPUs.
    spot: whether GKE's spot nodes are asked for.
    node_selector: more labels that nodes must have.
    tolerations: `KEY[=VALUE][:EFFECT]` of taints that pods tolerate.
    env: variables of the containers.
    labels: of all objects and pods.
    claim: a PersistentVolumeClaim that is mounted, or "".
    mount: where.
    service_account, namespace: of the pods, or "".
    grace: seconds from SIGTERM to SIGKILL; a shard should fit.
    retries: of a task whose pod crashed.
    restarts: of a slice, whatever ended it.
    max_failed: tasks that may fail before a job ends; None for all.
    ttl: seconds that a finished job stays; None for ever.
    port: of process 0 of a slice.
    join_timeout: seconds that the processes of a slice wait for another.
    config_in_image: whether `config` is a path in the image.
  """

  config: str
  workdir: str
  image: str
  name: str
  kind: str = "job"
  extra: Sequence[str] = ()
  tasks: int = 1
  parallelism: int | None = None
  hosts: int | None = None
  cpu: str = ""
  memory: str = ""
  gpus: int = 0
  tpu_accelerator: str = ""
  tpu_topology: str = ""
  chips_per_host: int = 4
  spot: bool = False
  node_selector: Mapping[str, str] = dataclasses.field(default_factory=dict)
  tolerations: Sequence[str] = ()
  env: Mapping[str, str] = dataclasses.field(default_factory=dict)
  labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
  claim: str = ""
  mount: str = "/data"
  service_account: str = ""
  namespace: str = ""
  grace: int = 600
  retries: int = 5
  restarts: int = 100
  max_failed: int | None = None
  ttl: int | None = 7 * 24 * 3600
  port: int = 8476
  join_timeout: int = 3600
  config_in_image: bool = False

  @property
  def tpu(self) -> bool:
    """Whether pods get TPUs."""
    return bool(self.tpu_accelerator or self.tpu_topology)

  @property
  def num_hosts(self) -> int:
    """Of a task; a topology says it, else `hosts`."""
    if self.tpu_topology:
      return max(1, _chips(self.tpu_topology) // self.chips_per_host)
    return self.hosts or 1

  @property
  def config_file(self) -> pathlib.Path:
    """Without its size."""
    return pathlib.Path(self.config.partition(":")[0])

  @property
  def config_in_pod(self) -> str:
    """The sweep's file as a pod sees it, with its size."""
    if self.config_in_image:
      return self.config
    _, colon, size = self.config.partition(":")
    return f"{CONFIG_FOLDER}/{self.config_file.name}{colon}{size}"

  def check(self) -> None:
    """Refuses what Kubernetes would, or what would never work.

    Raises:
      ValueError: and says what to do.
    """
    if self.kind not in KINDS:
      raise ValueError(f"kind={self.kind!r}: choose from {', '.join(KINDS)}.")
    self._check_numbers()
    self._check_names()
    self._check_devices()
    self._check_places()

  def _check_numbers(self) -> None:
    for name, least in (
      ("tasks", 1), ("parallelism", 1), ("hosts", 1), ("gpus", 0),
      ("chips_per_host", 1), ("grace", 1), ("retries", 0), ("restarts", 0),
      ("max_failed", 0), ("ttl", 0), ("port", 1), ("join_timeout", 1),
    ):  # fmt: skip
      value = getattr(self, name)
      if value is not None and value < least:
        raise ValueError(f"--{name}={value} must be at least {least}.")
    if self.tasks > _MAX_TASKS:
      raise ValueError(
        f"--tasks={self.tasks}: at most {_MAX_TASKS}; give each more shards."
      )
    if self.max_failed is not None and self.max_failed > self.tasks:
      raise ValueError(
        f"--max_failed={self.max_failed} exceeds --tasks={self.tasks}."
      )
    if self.port >= 1 << 16:
      raise ValueError(f"--port={self.port} is no port.")

  def _check_names(self) -> None:
    if not self.image:
      raise ValueError("--image is empty: give the image of launch/Dockerfile.")
    if self.kind == "job":
      longest = f"{self.name}-{self.tasks - 1}"
    else:
      longest = f"{self.name}-{self.tasks - 1}-slice-0-{self.num_hosts - 1}"
    room = _MAX_NAME - _CHANCE - (len(longest) - len(self.name))
    if not _LABEL.fullmatch(self.name) or len(self.name) > room:
      raise ValueError(
        f"--name={self.name!r}: lower-case letters, digits and -, a letter "
        f"first, no - last, at most {room} characters."
      )
    for flag in ("namespace", "service_account", "claim"):
      value = getattr(self, flag)
      if value and not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", value):
        raise ValueError(f"--{flag}={value!r} is no name of Kubernetes.")
    for flag, values in (
      ("label", self.labels), ("node_selector", self.node_selector),
    ):  # fmt: skip
      for name, value in values.items():
        if not _VALUE.fullmatch(value):
          raise ValueError(
            f"--{flag}={name}={value}: a label's value is up to 63 letters, "
            "digits, - _ and dots."
          )
    for name in self.env:
      if not _VARIABLE.fullmatch(name) or name in _OURS:
        raise ValueError(f"--env={name}=...: no variable that you may set.")

  def _check_devices(self) -> None:
    if bool(self.tpu_accelerator) != bool(self.tpu_topology):
      raise ValueError(
        "TPUs need both --tpu_accelerator=tpu-v6e-slice, say, and "
        "--tpu_topology=4x4."
      )
    if self.tpu and self.gpus:
      raise ValueError("Give --gpus or --tpu_..., not both.")
    if self.tpu:
      chips = _chips(self.tpu_topology)
      if chips % self.chips_per_host:
        raise ValueError(
          f"--tpu_topology={self.tpu_topology} has {chips} chips, which "
          f"--chips_per_host={self.chips_per_host} does not divide."
        )
      if self.hosts is not None and self.hosts != self.num_hosts:
        raise ValueError(
          f"--tpu_topology={self.tpu_topology} has {self.num_hosts} hosts of "
          f"{self.chips_per_host} chips, not --hosts={self.hosts}."
        )
    if self.kind == "job" and self.num_hosts > 1:
      raise ValueError(f"A task of {self.num_hosts} hosts needs --kind=jobset.")
    if self.kind == "jobset" and self.parallelism is not None:
      raise ValueError("--parallelism is of --kind=job; slices all start.")
    if self.kind == "jobset" and self.max_failed is not None:
      raise ValueError("--max_failed is of --kind=job.")

  def _check_places(self) -> None:
    remote = "://" in self.workdir
    if not self.mount.startswith("/") or self.mount.rstrip("/") in (
      "", CONFIG_FOLDER,
    ):  # fmt: skip
      raise ValueError(f"--mount={self.mount}: an absolute path of its own.")
    if not remote and not self.claim:
      raise ValueError(
        f"workdir {self.workdir} is a path, and pods do not share your disk: "
        "give a URL (gs://BUCKET/RUN), or --claim=NAME of a volume claim that "
        "many pods may write (ReadWriteMany) and a path in --mount."
      )
    inside = pathlib.PurePosixPath(self.workdir)
    if not remote and pathlib.PurePosixPath(self.mount) not in inside.parents:
      raise ValueError(
        f"workdir {self.workdir} must lie inside --mount={self.mount}."
      )
    if self.config_in_image:
      return
    if not _KEY.fullmatch(self.config_file.name):
      raise ValueError(
        f"The name of {self.config_file} must be of letters, digits, - _ and "
        "dots, to be the key of a ConfigMap."
      )
    if not self.config_file.is_file():
      raise ValueError(
        f"no sweep {str(self.config_file)!r} here: give a Python file of one, "
        "or --config_in_image for a path in the image."
      )
    if self.config_file.stat().st_size >= _MAX_CONFIG:
      raise ValueError(
        f"{self.config_file} exceeds the 1 MiB of a ConfigMap: put it into the "
        "image, and give --config_in_image."
      )


def name_of(workdir: str) -> str:
  """A name for the objects of a sweep: of the last part of its workdir."""
  last = workdir.rstrip("/").rpartition("/")[2].lower()
  slug = re.sub(r"[^a-z0-9]+", "-", last).strip("-")[:32].rstrip("-")
  return f"spex-{slug}" if slug else "spex"


def _chips(topology: str) -> int:
  """Of "4x4" or "2x2x4".

  Raises:
    ValueError: no such thing.
  """
  if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", topology):
    raise ValueError(f"--tpu_topology={topology!r}: give 4x4 or 2x2x4, say.")
  return math.prod(map(int, topology.split("x")))
