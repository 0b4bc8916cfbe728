"""Runs a sweep as tasks of a Ray cluster.

  python -m launch.ray --config=experiments/configs/sweep_digits.py \
    --workdir=DIR --tasks=100 --cpus_per_task=4 --gpus_per_task=1

Flags of `spex sweep run` follow behind `--`. Each task is a process of its own,
and is tried again when that is killed or its node is lost, or when it was asked
to end. What is done is read from the sweep's files; when this driver dies, its
tasks do, and the same command goes on.

Workers need this code, its packages and the workdir. Either all nodes share the
file system (the default: they import from the folder that this is run from), or
`--working_dir=.` has Ray carry the folder to them; then the workdir is a URL or
on a shared file system still. `--address=local` starts a Ray of this machine
alone. `--dry_run` prints the tasks, and needs no Ray.

Exit code 0 if every shard is there, 1 else.
"""

import functools
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from typing import Any

from absl import app, flags

from launch import tending

_PLAIN = ("DEFAULT", "SPREAD")  # Strategies that reserve nothing.
_GROUPS = ("PACK", "STRICT_PACK", "STRICT_SPREAD")
_PATIENCE = 60.0  # Seconds that tasks have to end behind their shards.
_LEFT_OUT = [".git", "**/.venv*", "**/__pycache__", "build", "runs"]


def work(words: list[str]) -> None:
  """One task, in the process of a worker.

  Raises:
    InterruptedError: it was asked to end, or can go on later; Ray tries it
      again.
  """
  from spex_jax import cli

  try:
    cli.command(["sweep", *words])
  except InterruptedError:
    time.sleep(10)  # A store may be out of reach for a while.
    raise


def words_of(
  config: str, workdir: str, index: int, count: int, extra: Sequence[str] = ()
) -> list[str]:
  """What `spex sweep` is given for a task."""
  return [
    "run",
    f"--config={config}",
    f"--workdir={workdir}",
    f"--task_index={index}",
    f"--task_count={count}",
    *extra,
  ]


def options(given: Any) -> dict[str, Any]:
  """Of the remote function; those of a placement group left out."""
  found: dict[str, Any] = {
    "num_cpus": given.cpus_per_task,
    "num_gpus": given.gpus_per_task,
    "max_retries": given.max_retries,
    # A fresh process for each: what one leaves behind, another does not find.
    "max_calls": 1,
  }
  if given.resources:
    found["resources"] = _resources(given.resources)
  if given.strategy in _PLAIN:
    found["scheduling_strategy"] = given.strategy
  return found


def environment(given: Any) -> dict[str, Any]:
  """Ray's `runtime_env`: where workers find the code, and their threads."""
  cores = str(max(1, int(given.cpus_per_task)))
  variables = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC"), cores
  )
  if given.working_dir:
    return {
      "working_dir": given.working_dir,
      "excludes": _LEFT_OUT,
      "env_vars": variables,
    }
  before = os.environ.get("PYTHONPATH")
  path = os.pathsep.join([str(tending.ROOT)] + ([before] if before else []))
  return {"env_vars": variables | {"PYTHONPATH": path}}


def execute(
  given: Any, config: str, workdir: str, extra: Sequence[str]
) -> bool:
  """Runs all tasks; returns whether all is there.

  Raises:
    SystemExit: no cluster, or one without room; one line says what to do.
  """
  import ray
  from ray.util import scheduling_strategies

  _connect(ray, given)
  chosen = options(given)
  if given.strategy in _GROUPS:
    group = _group(ray, given)
    chosen["scheduling_strategy"] = (
      scheduling_strategies.PlacementGroupSchedulingStrategy(group)
    )
  chosen["retry_exceptions"] = [InterruptedError]
  remote = ray.remote(**chosen)(work)
  watch = tending.Watch(workdir, given.tasks, stall=given.stall)
  waiting = {
    remote.remote(words_of(config, workdir, index, given.tasks, extra)): index
    for index in tending.unfinished(workdir, given.tasks)
  }
  tending.say(f"{len(waiting)} of {given.tasks} tasks are with Ray")
  looked = time.monotonic()
  try:
    while waiting:
      ready, _ = ray.wait(list(waiting), timeout=given.poll)
      for reference in ready:
        index = waiting.pop(reference)
        try:
          ray.get(reference)
        except ray.exceptions.RayError as error:
          tending.say(f"task {index} ended: {_cause(error)}")
      if time.monotonic() - looked >= given.poll:
        looked = time.monotonic()
        watch.look()
  except KeyboardInterrupt:
    for reference in waiting:
      ray.cancel(reference)
    ray.wait(list(waiting), num_returns=len(waiting), timeout=_PATIENCE)
    raise SystemExit(
      "Asked to end: what was begun is published; the same command goes on."
    ) from None
  return tending.verdict(workdir, watch.look())


def _connect(ray: Any, given: Any) -> None:
  """Starts Ray, or joins the one that runs."""
  os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
  more = {"include_dashboard": False} if given.address == "local" else {}
  try:
    ray.init(
      address=given.address,
      runtime_env=environment(given),
      log_to_driver=given.verbose,
      **more,
    )
  except ConnectionError as error:
    raise SystemExit(
      f"No Ray at --address={given.address}: {' '.join(str(error).split())} "
      "Start one by `ray start --head`, or take --address=local."
    ) from error
  except ValueError as error:  # A working_dir that is none, or too large.
    raise SystemExit(" ".join(str(error).split())) from error
  wanted = _bundle(given)
  if not any(
    all(node["Resources"].get(k, 0) >= v for k, v in wanted.items())
    for node in ray.nodes()
  ):
    told = ", ".join(f"{v:g} {k}" for k, v in wanted.items())
    tending.say(f"no node has {told} yet: tasks wait for one")


def _group(ray: Any, given: Any) -> Any:
  """A placement group with room for the tasks that run at a time."""
  from ray.util import placement_group

  count = min(given.bundles or given.tasks, given.tasks)
  group = placement_group([_bundle(given)] * count, strategy=given.strategy)
  if not group.wait(given.group_timeout):
    raise SystemExit(
      f"The cluster has no room for {count} tasks at a time by "
      f"--strategy={given.strategy} within {given.group_timeout:g} s: it has "
      f"{ray.cluster_resources()}. Give fewer --bundles, or --strategy=SPREAD."
    )
  return group


def _bundle(given: Any) -> dict[str, float]:
  """The resources of one task."""
  bundle = {"CPU": given.cpus_per_task, "GPU": given.gpus_per_task}
  found = bundle | _resources(given.resources)
  return {name: amount for name, amount in found.items() if amount}


def _resources(text: str | None) -> dict[str, float]:
  """`TPU=4,memory=1e9` as a dictionary.

  Raises:
    SystemExit: another form.
  """
  found = {}
  for part in (text or "").split(","):
    if not part.strip():
      continue
    name, _, amount = part.strip().partition("=")
    try:
      found[name] = float(amount)
    except ValueError:
      raise SystemExit(
        f"--resources={text}: give NAME=AMOUNT,NAME=AMOUNT."
      ) from None
  return found


def _cause(error: Exception) -> str:
  """One line of what Ray tells in many."""
  cause = getattr(error, "cause", None) or error
  return f"{type(cause).__name__}: {' '.join(str(cause).split())[:500]}"


def command(given: Any, extra: Sequence[str]) -> int:
  """Runs, or prints what it would run.

  Returns:
    The exit code.

  Raises:
    SystemExit: wrong use; one line says what to do.
  """
  for name, least in (
    ("cpus_per_task", 0), ("gpus_per_task", 0), ("max_retries", -1),
    ("bundles", 0), ("poll", 0.01), ("stall", 1),
  ):  # fmt: skip
    if getattr(given, name) < least:
      raise SystemExit(f"--{name}={getattr(given, name)}: at least {least}.")
  if given.bundles and given.strategy in _PLAIN:
    raise SystemExit(
      f"--bundles goes with --strategy={'|'.join(_GROUPS)} alone."
    )
  chosen = options(given)
  config, workdir = tending.checked(
    given.config, given.workdir, given.tasks, extra
  )
  if given.working_dir:
    config = _inside(config, given.working_dir)
  if given.dry_run:
    for index in range(given.tasks):
      words = words_of(config, workdir, index, given.tasks, extra)
      print(shlex.join(["spex", "sweep", *words]))
    print(f"# options: {json.dumps(chosen)}")
    print(f"# runtime_env: {json.dumps(environment(given))}")
    return 0
  try:
    import ray  # noqa: F401
  except ImportError as error:
    raise SystemExit("This needs Ray (pip install ray).") from error
  return 0 if execute(given, config, workdir, extra) else 1


def main(argv: Sequence[str]) -> None:
  """Of the command."""
  sys.exit(command(flags.FLAGS, argv[1:]))


def _inside(config: str, folder: str) -> str:
  """A sweep's file as workers find it, in their copy of a folder."""
  file, colon, size = config.partition(":")
  name = os.path.relpath(file, folder)
  if name.startswith(os.pardir):
    raise SystemExit(
      f"--config={config} does not lie in --working_dir={folder}, so workers "
      "would not have it."
    )
  return name + colon + size


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Of the command."""
  text = functools.partial(flags.DEFINE_string, flag_values=values)
  whole = functools.partial(flags.DEFINE_integer, flag_values=values)
  real = functools.partial(flags.DEFINE_float, flag_values=values)
  switch = functools.partial(flags.DEFINE_bool, flag_values=values)
  choice = functools.partial(flags.DEFINE_enum, flag_values=values)
  text("config", None, "File of the sweep.", required=True)
  text("workdir", None, "Its directory or URL.", required=True)
  whole("tasks", None, "Of the sweep.", required=True)
  text("address", "auto", "Of Ray; `local` starts one here.")
  real("cpus_per_task", 1, "Cores.")
  real("gpus_per_task", 0, "GPUs.")
  text("resources", None, "More of one task, as TPU=4.")
  whole("max_retries", 10, "Of a task; -1 is without end.")
  choice("strategy", "SPREAD", _PLAIN + _GROUPS, "Placement.")
  whole("bundles", 0, "Tasks at a time that a group holds.")
  real("group_timeout", 600, "Seconds to wait for a group.")
  text("working_dir", None, "Folder that Ray carries to nodes.")
  real("poll", 10.0, "Seconds between two looks.")
  real("stall", 1800.0, "Seconds without a row until it warns.")
  switch("verbose", False, "Shows what workers print.")
  switch("dry_run", False, "Prints the tasks.")


if __name__ == "__main__":
  define_flags()
  app.run(main)
