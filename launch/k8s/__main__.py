"""Runs a sweep on Kubernetes.

  python -m launch.k8s --config=experiments/configs/sweep_digits.py \
    --workdir=gs://BUCKET/RUN --image=IMAGE --tasks=100 --gpus=1 --spot

`--kind=job` makes an Indexed Job, one pod for each task; `--kind=jobset` a
JobSet for each task, one pod on each host of a slice. The sweep's file goes
along in a ConfigMap. What stands behind `--` is given to `spex sweep run`.
`--dry_run` prints the manifests, and needs no cluster.

The same command goes on where the last one ended, with `--again` if objects of
the name are still there. Exit code 0 if Kubernetes took the manifests, 1 else.
"""

import contextlib
import dataclasses
import functools
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from absl import app, flags

from launch.k8s import manifests, settings
from spex_jax import cli

# Flags of `spex sweep run` that the manifests set.
_OURS = (
  "config", "workdir", "task_index", "task_count", "coordinator", "process_id",
  "num_processes", "distributed", "timeout", "dry_run",
)  # fmt: skip


def render(documents: Iterable[dict[str, Any]]) -> str:
  """The manifests as YAML.

  Raises:
    ImportError: no PyYAML.
  """
  try:
    import yaml
  except ImportError:
    raise ImportError(
      "Manifests need PyYAML (pip install pyyaml); the lock of this repository "
      "has it."
    ) from None

  class Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data):
      return True  # Labels appear again and again: written out each time.

    def represent_text(self, data):
      style = "|" if "\n" in data else None  # A sweep's file stays readable.
      return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)

  Dumper.add_representer(str, Dumper.represent_text)
  return yaml.dump_all(documents, Dumper=Dumper, sort_keys=False, width=1 << 16)


def send(
  text: str, *, again: bool = False, context: str = ""
) -> subprocess.CompletedProcess:
  """Gives manifests to kubectl.

  Args:
    text: YAML.
    again: whether objects of these names are deleted first.
    context: of kubectl's configuration, or "" for the current one.

  Raises:
    FileNotFoundError: no kubectl.
  """
  program = shutil.which("kubectl")
  if program is None:
    raise FileNotFoundError(
      "kubectl is not installed here. --dry_run prints the manifests; where "
      "kubectl is, `kubectl apply -f FILE` takes them."
    )
  words = [program, *([f"--context={context}"] if context else [])]
  words += ["replace", "--force"] if again else ["apply"]
  return subprocess.run([*words, "-f", "-"], input=text, text=True)


def check_sweep(wanted: settings.Settings) -> None:
  """Loads the sweep as its tasks will, and tells what they will do.

  Raises:
    TypeError, ValueError: what `spex sweep run` would refuse.
  """
  words = [
    "sweep",
    "run",
    f"--config={wanted.config}",
    f"--workdir={wanted.workdir}",
    "--task_index=0",
    f"--task_count={wanted.tasks}",
    *wanted.extra,
    "--dry_run",
  ]
  with contextlib.redirect_stdout(sys.stderr):
    cli.command(words)


def _pairs(flag: str, texts: Sequence[str]) -> dict[str, str]:
  """Of "NAME=VALUE"."""
  found = {}
  for text in texts:
    name, equals, value = text.partition("=")
    if not (name and equals):
      raise ValueError(f"--{flag}={text!r}: give NAME=VALUE.")
    found[name] = value
  return found


def _wanted(given: flags.FlagValues, extra: Sequence[str]) -> settings.Settings:
  for word in extra:
    name = word.lstrip("-").partition("=")[0]
    if not word.startswith("--"):
      raise ValueError(f"unexpected argument {word!r}; see --help.")
    if name in _OURS:
      raise ValueError(f"{word}: a pod gets --{name} from its manifest.")
  values: dict[str, Any] = {
    field.name: getattr(given, field.name)
    for field in dataclasses.fields(settings.Settings)
    if field.name in given
  }
  values |= {
    "name": given.name or settings.name_of(given.workdir),
    "extra": tuple(extra),
    "tolerations": tuple(given.toleration),
    "node_selector": _pairs("node_selector", given.node_selector),
    "labels": _pairs("label", given.label),
    "env": _pairs("env", given.env),
    "ttl": None if given.ttl < 0 else given.ttl,
  }
  return settings.Settings(**values)


def run(given: flags.FlagValues, extra: Sequence[str]) -> None:
  """Prints what it would run, or runs it.

  Args:
    given: parsed, as `define` made them.
    extra: more flags of `spex sweep run`.

  Raises:
    SystemExit: with one line that says what to do.
  """
  try:
    wanted = _wanted(given, extra)
    documents = manifests.documents(wanted)
    if not wanted.config_in_image:
      check_sweep(wanted)
    text = render(documents)
    if given.dry_run:
      print(text, end="")
      return
    for document in documents:
      print(f"{document['kind']} {document['metadata']['name']}")
    done = send(text, again=given.again, context=given.context)
  except (ImportError, OSError, TypeError, ValueError) as error:
    sys.exit(f"launch.k8s: {error}")
  if done.returncode:
    sys.exit(
      "launch.k8s: kubectl refused it, as it says above. Objects of another "
      "launch of this name? --again replaces them; what is published stays. No "
      "kind JobSet? It must be installed in the cluster."
    )
  space = f" -n {wanted.namespace}" if wanted.namespace else ""
  label = f"-l app.kubernetes.io/instance={wanted.name}"
  print(
    f"watch:  kubectl get{space} jobs,pods {label}\n"
    f"logs:   kubectl logs{space} {label} --prefix --tail=5\n"
    f"status: spex sweep status --workdir={wanted.workdir}\n"
    f"remove: kubectl delete{space} {wanted.kind},configmap {label}"
  )


def define(values: flags.FlagValues) -> None:
  """Makes the flags."""
  text, number, switch, texts = (
    functools.partial(make, flag_values=values)
    for make in (
      flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_bool,
      flags.DEFINE_multi_string,
    )
  )  # fmt: skip
  text("config", None, "File of the sweep.", required=True)
  text("workdir", None, "Its directory.", required=True)
  text("image", None, "Of the containers.", required=True)
  flags.DEFINE_enum(
    "kind", "job", settings.KINDS, "What is made.", flag_values=values
  )
  text("name", None, "Of the objects; default: of the workdir.")
  number("tasks", 1, "Parts of the sweep.")
  number("parallelism", None, "Tasks at once; default: all.")
  number("hosts", None, "Of a task; a TPU topology says it.")
  text("cpu", "", "Cores of a pod, as in 4 or 500m.")
  text("memory", "", "Of a pod, as in 16Gi.")
  number("gpus", 0, "Of a pod.")
  text("tpu_accelerator", "", "GKE's, as in tpu-v6e-slice.")
  text("tpu_topology", "", "Of a task, as in 4x4.")
  number("chips_per_host", 4, "Of a TPU slice.")
  switch("spot", False, "On GKE's spot nodes.")
  texts("node_selector", [], "NAME=VALUE of nodes.")
  texts("toleration", [], "KEY[=VALUE][:EFFECT].")
  texts("env", [], "NAME=VALUE for the containers.")
  texts("label", [], "NAME=VALUE on all objects.")
  text("claim", "", "PersistentVolumeClaim of the workdir.")
  text("mount", "/data", "Where the claim is mounted.")
  text("service_account", "", "Of the pods.")
  text("namespace", "", "Of all objects.")
  number("grace", 600, "Seconds to end in; a shard should fit.")
  number("retries", 5, "Of a task whose pod crashed.")
  number("restarts", 100, "Of a slice, whatever ended it.")
  number("max_failed", None, "Failed tasks that end the job.")
  number("ttl", 7 * 24 * 3600, "Seconds a finished job stays; -1: for ever.")
  number("port", 8476, "Of process 0 of a slice.")
  number("join_timeout", 3600, "Seconds to wait for a slice.")
  switch("config_in_image", False, "--config is the image's.")
  switch("again", False, "Replaces objects of the same name.")
  text("context", "", "Of kubectl's configuration.")
  switch("dry_run", False, "Prints the manifests.")


def main(argv: Sequence[str]) -> None:
  """Of the command."""
  run(flags.FLAGS, argv[1:])


if __name__ == "__main__":
  define(flags.FLAGS)
  app.run(main)
