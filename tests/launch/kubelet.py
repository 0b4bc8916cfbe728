"""Enough of Kubernetes to run a manifest's pods as processes of this machine.

The controller's variables, `$(NAME)` in commands, mounts as folders, and what a
Job's policy says about an exit code.
"""

import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
_SPEX = (sys.executable, "-c", "from spex_jax import cli; cli.run()")


def pod_of(document):
  """The pod template of a Job, or of the one job in a JobSet."""
  return job_spec(document)["template"]["spec"]


def job_spec(document):
  """Of a Job, or of the one job in a JobSet."""
  if document["kind"] == "Job":
    return document["spec"]
  (replicated,) = document["spec"]["replicatedJobs"]
  assert replicated["replicas"] == 1
  return replicated["template"]["spec"]


def start(documents, document, index, folder):
  """Starts the container of a completion index.

  Args:
    documents: all, with the ConfigMap.
    document: the Job or JobSet.
    index: of the pod.
    folder: that stands for the volumes of the cluster.
  """
  (container,) = pod_of(document)["containers"]
  env = {entry["name"]: entry["value"] for entry in container["env"]}
  env["JOB_COMPLETION_INDEX"] = str(index)
  mounts = _mounts(documents, document, folder)
  words = [_expanded(word, env) for word in container["command"]]
  for inside, outside in mounts.items():
    words = [word.replace(f"={inside}/", f"={outside}/") for word in words]
  words = [re.sub(r"=[-a-z0-9]+-0\.[-a-z0-9]+:", "=127.0.0.1:", word)
           for word in words]  # fmt: skip
  assert words[0] == "spex"
  return subprocess.Popen(
    [*_SPEX, *words[1:]],
    cwd=ROOT,
    env={
      "PATH": os.environ["PATH"],
      "HOME": str(folder),
      "JAX_PLATFORMS": "cpu",
      "KUBERNETES_SERVICE_HOST": "10.0.0.1",
      **env,
    },
    stdout=subprocess.DEVNULL,
  )


def verdict(document, code):
  """What the Job does about a pod that ended: the first rule that speaks."""
  if code == 0:
    return "Complete"
  code = 128 - code if code < 0 else code
  for rule in job_spec(document)["podFailurePolicy"]["rules"]:
    codes = rule.get("onExitCodes", {"operator": "In", "values": []})
    assert codes["operator"] == "In"
    if code in codes["values"]:
      return rule["action"]
  return "Count"


def _expanded(text, env):
  """`$(NAME)` of a variable that there is; `$$` is `$`."""
  return re.sub(
    r"\$(\$|\((\w+)\))",
    lambda found: (
      "$" if found[1] == "$" else env.get(found[2], found[0])
    ),
    text,
  )  # fmt: skip


def _mounts(documents, document, folder):
  """Folder of every mount path; a ConfigMap's is written, read-only."""
  by_name = {found["metadata"]["name"]: found for found in documents}
  pod = pod_of(document)
  (container,) = pod["containers"]
  places = {}
  for mount in container.get("volumeMounts", []):
    (volume,) = (v for v in pod["volumes"] if v["name"] == mount["name"])
    place = folder / mount["name"]
    place.mkdir(exist_ok=True)
    if "configMap" in volume:
      data = by_name[volume["configMap"]["name"]]["data"]
      for name, text in data.items():
        (place / name).write_text(text)
    places[mount["mountPath"]] = place
  return places
