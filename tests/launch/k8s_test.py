"""Manifests of Kubernetes: what they say, and what is refused.

That Kubernetes' schemas take them is in `k8s_schema_test.py`, and that their
pods do the work in `k8s_pods_test.py`.
"""

import os
import re
import signal
import stat
import subprocess
import sys

import pytest
import yaml
from absl import flags

from launch.k8s import __main__ as command
from launch.k8s import manifests, settings
from tests.launch import kubelet

_CONFIG = str(kubelet.ROOT / "tests/launch/sweep_sums.py")


def _settings(**changes):
  return settings.Settings(
    **{
      "config": f"{_CONFIG}:double", "workdir": "gs://bucket/digits",
      "image": "registry/spex:1", "name": "digits",
    }
    | changes
  )  # fmt: skip


def _documents(**changes):
  return manifests.documents(_settings(**changes))


def _job(**changes):
  return _documents(**changes)[-1]


def _container(document):
  (found,) = kubelet.pod_of(document)["containers"]
  return found


def _env(document):
  return {
    entry["name"]: entry["value"] for entry in _container(document)["env"]
  }


def test_a_job_has_an_index_for_each_task():
  job = _job(tasks=7, parallelism=3)
  spec = job["spec"]
  assert job["kind"] == "Job" and spec["completionMode"] == "Indexed"
  assert (spec["completions"], spec["parallelism"]) == (7, 3)
  # The index comes from JOB_COMPLETION_INDEX, which Kubernetes sets.
  assert _env(job) == {"SPEX_TASK_COUNT": "7"}
  assert _container(job)["command"] == [
    "spex", "sweep", "run", "--config=/etc/spex/sweep_sums.py:double",
    "--workdir=gs://bucket/digits",
  ]  # fmt: skip


@pytest.mark.parametrize(
  ("code", "action"),
  [
    (0, "Complete"),
    (75, "Ignore"),
    (-signal.SIGTERM, "Ignore"),
    (1, "FailIndex"),
    (-signal.SIGKILL, "Count"),
    (-signal.SIGSEGV, "Count"),
  ],
)
def test_what_a_job_does_about_exit_codes(code, action):
  assert kubelet.verdict(_job(), code) == action


@pytest.mark.parametrize(
  ("code", "action"), [(75, "Count"), (134, "Count"), (1, "FailJob")]
)
def test_what_a_slice_does_about_exit_codes(code, action):
  """A slice comes back as a whole, but for bad input: that ends it."""
  jobset = _documents(kind="jobset", hosts=2)[-1]
  assert kubelet.verdict(jobset, code) == action
  assert kubelet.job_spec(jobset)["backoffLimit"] == 0
  policy = jobset["spec"]["failurePolicy"]
  (rule,) = policy["rules"]
  assert rule["action"] == "FailJobSet"
  assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
  assert policy["maxRestarts"] == 100


def test_a_disrupted_pod_is_replaced_whatever_its_exit_code():
  rules = _job()["spec"]["podFailurePolicy"]["rules"]
  assert rules[0]["action"] == "Ignore"
  assert rules[0]["onPodConditions"][0]["type"] == "DisruptionTarget"
  spec = _job(retries=2, max_failed=0)["spec"]
  assert spec["backoffLimitPerIndex"] == 2 and spec["maxFailedIndexes"] == 0
  assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_a_jobset_for_each_task_and_a_process_for_each_host():
  _, *sets = _documents(kind="jobset", hosts=4, tasks=3, gpus=8, port=1234)
  assert [found["metadata"]["name"] for found in sets] == [
    "digits-0", "digits-1", "digits-2",
  ]  # fmt: skip
  for task, found in enumerate(sets):
    spec = kubelet.job_spec(found)
    assert (spec["completions"], spec["parallelism"]) == (4, 4)
    # There JOB_COMPLETION_INDEX is the host: the task is given by name.
    assert _env(found) == {
      "SPEX_TASK_INDEX": str(task), "SPEX_TASK_COUNT": "3",
      "JAX_PLATFORMS": "cuda,cpu",
    }  # fmt: skip
    words = _container(found)["command"]
    # JobSet's names: <set>-<job>-<replica>-<pod>.<set>.
    assert f"--coordinator=digits-{task}-slice-0-0.digits-{task}:1234" in words
    assert "--process_id=$(JOB_COMPLETION_INDEX)" in words
    assert "--num_processes=4" in words
    assert found["spec"]["network"]["enableDNSHostnames"]
    assert "annotations" not in found["metadata"]


def test_a_slice_of_tpus():
  found = _documents(
    kind="jobset", tpu_accelerator="tpu-v6e-slice", tpu_topology="4x4"
  )[-1]
  spec, pod = kubelet.job_spec(found), kubelet.pod_of(found)
  assert spec["completions"] == 4  # 16 chips, 4 on each host.
  assert _container(found)["resources"]["limits"] == {"google.com/tpu": "4"}
  assert pod["nodeSelector"] == {
    "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
    "cloud.google.com/gke-tpu-topology": "4x4",
  }
  assert {"key": "google.com/tpu", "operator": "Exists",
          "effect": "NoSchedule"} in pod["tolerations"]  # fmt: skip
  assert _env(found)["JAX_PLATFORMS"] == "tpu,cpu"
  assert "--distributed" in _container(found)["command"]
  assert not [w for w in _container(found)["command"] if "coordinator" in w]
  assert list(found["metadata"]["annotations"].values()) == [
    "cloud.google.com/gke-nodepool"
  ]


def test_one_host_of_tpus_is_a_job_and_joins_nobody():
  found = _job(tpu_accelerator="tpu-v5-lite-podslice", tpu_topology="2x2")
  assert found["kind"] == "Job"
  assert "--distributed" not in _container(found)["command"]


def test_what_a_pod_gets():
  found = _job(
    cpu="4", memory="16Gi", gpus=2, spot=True, claim="shared",
    workdir="/data/runs/digits", service_account="writer", namespace="lab",
    env={"NAME": "a $(HOME) \"b\""}, labels={"team": "x"},
    tolerations=("dedicated=spex:NoExecute", "other"),
    node_selector={"pool": "big"}, grace=90, ttl=None,
    extra=("--config.scale=0.5", "--sinks=$(X)"),
  )  # fmt: skip
  pod, container = kubelet.pod_of(found), _container(found)
  assert container["resources"] == {
    "requests": {"cpu": "4", "memory": "16Gi"},
    "limits": {"memory": "16Gi", "nvidia.com/gpu": "2"},
  }
  assert pod["terminationGracePeriodSeconds"] == 90
  assert pod["serviceAccountName"] == "writer"
  assert pod["nodeSelector"] == {
    "pool": "big", "cloud.google.com/gke-spot": "true",
  }  # fmt: skip
  assert pod["tolerations"] == [
    {"key": "dedicated", "operator": "Equal", "value": "spex",
     "effect": "NoExecute"},
    {"key": "other", "operator": "Exists"},
    {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true",
     "effect": "NoSchedule"},
    {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
  ]  # fmt: skip
  claims = [v for v in pod["volumes"] if "persistentVolumeClaim" in v]
  assert claims[0]["persistentVolumeClaim"] == {"claimName": "shared"}
  # What looks like a variable of Kubernetes arrives as it was given.
  assert _env(found)["NAME"] == 'a $$(HOME) "b"'
  assert container["command"][-2:] == ["--config.scale=0.5", "--sinks=$$(X)"]
  assert found["metadata"]["namespace"] == "lab"
  assert found["metadata"]["labels"]["team"] == "x"
  assert "ttlSecondsAfterFinished" not in found["spec"]


@pytest.mark.parametrize("changes", [{}, {"kind": "jobset", "hosts": 2}])
def test_what_schemas_do_not_see(changes):
  """Rules of Kubernetes' own validation of a policy for failures."""
  spec = kubelet.job_spec(_documents(**changes)[-1])
  pod = spec["template"]["spec"]
  assert pod["restartPolicy"] == "Never"
  for rule in spec["podFailurePolicy"]["rules"]:
    assert len({"onExitCodes", "onPodConditions"} & rule.keys()) == 1
    assert rule["action"] != "FailIndex" or "backoffLimitPerIndex" in spec
    codes = rule.get("onExitCodes")
    if codes:
      assert codes["containerName"] == pod["containers"][0]["name"]
      assert codes["values"] == sorted(set(codes["values"]))
      assert 0 not in codes["values"]
  mounts = {m["name"] for m in pod["containers"][0]["volumeMounts"]}
  assert mounts == {volume["name"] for volume in pod["volumes"]}


def test_another_file_is_another_config_map(tmp_path):
  place = tmp_path / "sweep.py"
  names = []
  for text in ("a = 1\n", "a = 2\n", "a = 1\n"):
    place.write_text(text)
    found = _documents(config=str(place))
    assert found[0]["data"] == {"sweep.py": text} and found[0]["immutable"]
    names.append(found[0]["metadata"]["name"])
    (volume,) = kubelet.pod_of(found[1])["volumes"]
    assert volume["configMap"]["name"] == names[-1]
  assert names[0] == names[2] != names[1]


def test_a_config_in_the_image_needs_no_config_map():
  (found,) = _documents(config="configs/x.py:quick", config_in_image=True)
  assert "--config=configs/x.py:quick" in _container(found)["command"]
  assert "volumes" not in kubelet.pod_of(found)


def test_yaml_says_what_the_dictionaries_say():
  for changes in ({}, {"kind": "jobset", "hosts": 2, "tasks": 2}):
    found = _documents(env={"A": "yes", "B": "0123", "C": "a: {b}"}, **changes)
    text = command.render(found)
    assert list(yaml.safe_load_all(text)) == found
    assert "&id" not in text and "sweep_sums.py: |" in text


@pytest.mark.parametrize(
  ("workdir", "name"),
  [
    ("gs://bucket/My Run_7/", "spex-my-run-7"),
    ("/data/x", "spex-x"),
    ("gs://bucket/...", "spex"),
    ("s3://b/" + "long" * 20, "spex-" + "long" * 8),
  ],
)
def test_names_of_workdirs(workdir, name):
  assert settings.name_of(workdir) == name


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"kind": "pod"}, "kind='pod': choose from job, jobset"),
    ({"tasks": 0}, "--tasks=0 must be at least 1"),
    ({"tasks": 100_001}, "at most 100000; give each more shards"),
    ({"tasks": 2, "max_failed": 3}, "--max_failed=3 exceeds --tasks=2"),
    ({"port": 65536}, "--port=65536 is no port"),
    ({"image": ""}, "--image is empty"),
    ({"name": "Digits"}, "lower-case letters, digits and -"),
    ({"name": "7digits"}, "a letter first"),
    ({"name": "d" * 56, "tasks": 1}, "at most 55 characters"),
    ({"name": "d" * 50, "kind": "jobset", "tasks": 11}, "at most 44 char"),
    ({"namespace": "Lab_1"}, "--namespace='Lab_1' is no name of Kubernetes"),
    ({"labels": {"team": "a b"}}, "--label=team=a b: a label's value"),
    ({"env": {"SPEX_TASK_INDEX": "0"}}, "no variable that you may set"),
    ({"env": {"1A": "0"}}, "no variable that you may set"),
    ({"tpu_topology": "4x4"}, "TPUs need both"),
    ({"tpu_accelerator": "t", "tpu_topology": "4*4"}, "give 4x4 or 2x2x4"),
    ({"tpu_accelerator": "t", "tpu_topology": "1x3"}, "does not divide"),
    ({"tpu_accelerator": "t", "tpu_topology": "2x2", "gpus": 1}, "not both"),
    (
      {"tpu_accelerator": "t", "tpu_topology": "4x4", "hosts": 2,
       "kind": "jobset"},
      "has 4 hosts of 4 chips, not --hosts=2",
    ),
    ({"hosts": 2}, "A task of 2 hosts needs --kind=jobset"),
    ({"kind": "jobset", "parallelism": 2}, "--parallelism is of --kind=job"),
    ({"kind": "jobset", "max_failed": 0}, "--max_failed is of --kind=job"),
    ({"workdir": "/runs/x"}, "is a path, and pods do not share your disk"),
    ({"workdir": "/x", "claim": "c"}, "must lie inside --mount=/data"),
    ({"mount": "/etc/spex/"}, "an absolute path of its own"),
    ({"config": "nowhere.py"}, "no sweep 'nowhere.py' here"),
    ({"tolerations": ("a:Never",)}, "with an effect of NoSchedule"),
  ],
)  # fmt: skip
def test_what_cannot_be(changes, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    _documents(**changes)


def test_a_config_that_no_config_map_holds(tmp_path):
  place = tmp_path / "sweep.py"
  place.write_bytes(b"#" * (1 << 20))
  with pytest.raises(ValueError, match="exceeds the 1 MiB of a ConfigMap"):
    _documents(config=str(place))
  place.write_bytes(b"# \xff")
  with pytest.raises(ValueError, match="is no UTF-8 text"):
    _documents(config=str(place))


def _run(*words, config=_CONFIG):
  """The command, in this process."""
  values = flags.FlagValues()
  command.define(values)
  given = [f"--config={config}", "--workdir=gs://b/sums", "--image=i"]
  extra = values(["k8s", *given, *words])[1:]
  command.run(values, extra)


@pytest.fixture
def kubectl(tmp_path, monkeypatch):
  """A kubectl that keeps what it was given, and fails if told."""
  place = tmp_path / "bin" / "kubectl"
  place.parent.mkdir()
  place.write_text(
    f'#!/bin/sh\necho "$@" > {tmp_path}/words\ncat > {tmp_path}/text\n'
    f"exit $(cat {tmp_path}/code 2>/dev/null || echo 0)\n"
  )
  place.chmod(place.stat().st_mode | stat.S_IXUSR)
  monkeypatch.setenv("PATH", f"{place.parent}:{os.environ['PATH']}")
  return tmp_path


def test_a_dry_run_prints_the_manifests_and_starts_nothing(kubectl, capsys):
  _run("--tasks=3", "--dry_run", "--", "--config.scale=0.5")
  said = capsys.readouterr()
  found = list(yaml.safe_load_all(said.out))
  assert [document["kind"] for document in found] == ["ConfigMap", "Job"]
  assert "40 rows in 40 shards" in said.err
  assert not (kubectl / "words").exists()


def test_the_module_is_a_command(tmp_path):
  done = subprocess.run(
    [sys.executable, "-m", "launch.k8s", f"--config={_CONFIG}",
     "--workdir=gs://b/sums", "--image=i", "--ttl=-1", "--dry_run"],
    cwd=kubelet.ROOT, capture_output=True, text=True, check=True,
  )  # fmt: skip
  job = list(yaml.safe_load_all(done.stdout))[-1]
  assert job["metadata"]["name"] == "spex-sums"
  assert "ttlSecondsAfterFinished" not in job["spec"]


def test_manifests_are_given_to_kubectl(kubectl, capsys):
  _run("--tasks=3", "--context=lab")
  assert (kubectl / "words").read_text() == "--context=lab apply -f -\n"
  found = list(yaml.safe_load_all((kubectl / "text").read_text()))
  said = capsys.readouterr().out
  for document in found:
    assert f"{document['kind']} {document['metadata']['name']}\n" in said
  assert "spex sweep status --workdir=gs://b/sums" in said
  _run("--again")
  assert (kubectl / "words").read_text() == "replace --force -f -\n"


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (("--", "--config.scales=1"), "Did you mean scale?"),
    (("--", "--nonsense=1"), "no flag '--nonsense'"),
    (("--", "--task_index=1"), "a pod gets --task_index from its manifest"),
    (("surplus",), "unexpected argument 'surplus'"),
    (("--env=A",), "--env='A': give NAME=VALUE"),
    (("--name=A",), "lower-case letters"),
  ],
)
def test_one_line_says_what_is_wrong(kubectl, words, message):
  with pytest.raises(SystemExit, match=re.escape(message)) as found:
    _run(*words)
  assert str(found.value).startswith("launch.k8s: ")
  assert "\n" not in str(found.value)
  assert not (kubectl / "words").exists()


def test_a_config_that_does_not_load(kubectl, tmp_path):
  place = tmp_path / "sweep.py"
  place.write_text("import no_such_module\n")
  with pytest.raises(SystemExit, match="ModuleNotFoundError"):
    _run(config=place)
  assert not (kubectl / "words").exists()


def test_kubectl_that_refuses_or_is_not_there(kubectl, monkeypatch):
  (kubectl / "code").write_text("1")
  with pytest.raises(SystemExit, match="kubectl refused it.*--again"):
    _run()
  monkeypatch.setenv("PATH", str(kubectl))
  with pytest.raises(SystemExit, match="kubectl is not installed here"):
    _run()


def test_no_pyyaml(monkeypatch):
  monkeypatch.setitem(sys.modules, "yaml", None)
  with pytest.raises(SystemExit, match="pip install pyyaml"):
    _run("--dry_run")
