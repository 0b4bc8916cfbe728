"""Runs a sweep as an array of Slurm, by submitit.

  python -m launch.slurm --config=experiments/configs/sweep_digits.py \
    --workdir=DIR --tasks=100 --time=240 --cpus=8 --gpus=1 --wait

Flags of `spex sweep run` follow behind `--`. Only tasks with missing shards are
submitted, and none that is still queued or running; so the same command may be
given at any time. `--wait` follows the sweep's files until all is there, and
submits tasks again whose jobs are gone. `--dry_run` prints the script for
sbatch. Jobs are queued again by themselves at the time limit and when they are
preempted. Logs, pickles and numbers of jobs lie in `WORKDIR/.slurm` or
`--logs`; the file system must be shared by all nodes.

Exit code 0 if all was submitted, or with `--wait` if every shard is there; 1
else.
"""

import collections
import functools
import os
import pathlib
import shlex
import shutil
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags

from launch import slurm_jobs, tending


def _wanted(
  plan: slurm_jobs.Plan, jobs: slurm_jobs.Jobs, force: bool
) -> list[int]:
  """The tasks to submit now.

  Raises:
    SystemExit: jobs of another number of tasks are alive, or nobody knows.
  """
  alive = jobs.alive()
  missing = tending.unfinished(plan.workdir, plan.count)
  if force:
    return missing
  if alive is None:
    raise SystemExit(
      "Which jobs of this sweep are alive is unknown, as squeue does not "
      "answer. Try later, or submit all the same by --force."
    )
  others = sorted({count for _, count in alive} - {plan.count})
  if others:
    raise SystemExit(
      f"{len(alive)} tasks of --tasks={others[0]} are queued or running. Give "
      "that number, cancel them, or submit all the same by --force."
    )
  running = {index for index, _ in alive}
  if running:
    states = collections.Counter(alive.values())
    told = ", ".join(f"{n} {state}" for state, n in sorted(states.items()))
    tending.say(f"{len(running)} tasks are there already ({told})")
  return [index for index in missing if index not in running]


def plan_of(given: Any, extra: Sequence[str]) -> slurm_jobs.Plan:
  """What the flags ask for.

  Raises:
    SystemExit: a flag without sense; one line says what to do.
  """
  for name, least in (
    ("time", 1), ("nodes", 1), ("array_parallelism", 1), ("restarts", 0),
    ("resubmits", 0), ("signal_delay", 0), ("cpus", 1), ("gpus", 0),
    ("poll", 0.01), ("stall", 1),
  ):  # fmt: skip
    value = getattr(given, name)
    if value is not None and value < least:
      raise SystemExit(f"--{name}={value}: at least {least}.")
  if given.signal_delay >= given.time * 60:
    raise SystemExit(
      f"--signal_delay={given.signal_delay} seconds leave nothing of "
      f"--time={given.time} minutes."
    )
  if given.logs is None and "://" in given.workdir:
    raise SystemExit(
      f"--workdir={given.workdir} is a URL: give --logs, a directory that "
      "all nodes share, for the logs."
    )
  options = {}
  for option in given.option:
    name, equals, value = option.partition("=")
    options[name.lstrip("-")] = value if equals else True
  config, workdir = tending.checked(
    given.config, given.workdir, given.tasks, extra
  )
  parameters = {
    "job_name": given.name or f"spex-{pathlib.PurePath(workdir).name}",
    "partition": given.partition,
    "account": given.account,
    "qos": given.qos,
    "time": given.time,
    "mem": given.mem,
    "cpus_per_task": given.cpus,
    "gpus_per_node": given.gpus or None,
    "nodes": given.nodes,
    "ntasks_per_node": 1,
    "array_parallelism": given.array_parallelism,
    "signal_delay_s": given.signal_delay,
    # Whatever directory the job starts in.
    "setup": [
      f"export PYTHONPATH={shlex.quote(str(tending.ROOT))}"
      "${PYTHONPATH:+:$PYTHONPATH}",
      *given.setup,
    ],
    # srun takes this from sbatch no longer, since 22.05.
    "srun_args": [f"--cpus-per-task={given.cpus}"] if given.cpus else None,
    "additional_parameters": {"requeue": True} | options,
  }
  return slurm_jobs.Plan(
    config=config,
    workdir=workdir,
    count=given.tasks,
    extra=tuple(extra),
    log_dir=pathlib.Path(os.path.abspath(given.logs or f"{workdir}/.slurm")),
    parameters={k: v for k, v in parameters.items() if v is not None},
    nodes=given.nodes,
    gpus=given.gpus or 0,
    restarts=given.restarts,
    signal_delay=given.signal_delay,
  )


def command(given: Any, extra: Sequence[str]) -> int:
  """Submits and, if asked, follows; or prints what it would submit.

  Returns:
    The exit code.

  Raises:
    SystemExit: wrong use; one line says what to do.
  """
  plan = plan_of(given, extra)
  try:
    import submitit  # noqa: F401
  except ImportError as error:
    raise SystemExit("This needs submitit (pip install submitit).") from error
  words = shlex.join(plan.task(0).words)
  if given.dry_run:
    print(slurm_jobs.script(plan, range(plan.count)))
    print(f"# Task 0 of {plan.count}, under submitit:\n# {words}")
    return 0
  for program in ("sbatch", "srun", "squeue"):
    if shutil.which(program) is None:
      raise SystemExit(
        f"No {program} here: run this where Slurm's commands are, or see "
        "--dry_run."
      )
  with slurm_jobs.alone(plan.log_dir):
    jobs = slurm_jobs.Jobs(plan.log_dir)
    wanted = _wanted(plan, jobs, given.force)
    if wanted:
      print(f"each task, as the first: {words}", flush=True)
      slurm_jobs.submit(plan, wanted, jobs)
    else:
      tending.say("nothing to submit")
  if not given.wait:
    print(f"spex sweep status --workdir={shlex.quote(plan.workdir)}")
    return 0
  try:
    done = slurm_jobs.follow(
      plan,
      jobs,
      resubmits=given.resubmits,
      poll=given.poll,
      stall=given.stall,
    )
  except KeyboardInterrupt:
    numbers = " ".join(entry["job"] for entry in jobs.submitted)
    raise SystemExit(
      f"The jobs go on; the same command follows them again, `scancel "
      f"{numbers}` ends them."
    ) from None
  return 0 if done else 1


def main(argv: Sequence[str]) -> None:
  """Of the command."""
  sys.exit(command(flags.FLAGS, argv[1:]))


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Of the command."""
  text = functools.partial(flags.DEFINE_string, flag_values=values)
  whole = functools.partial(flags.DEFINE_integer, flag_values=values)
  real = functools.partial(flags.DEFINE_float, flag_values=values)
  switch = functools.partial(flags.DEFINE_bool, flag_values=values)
  several = functools.partial(flags.DEFINE_multi_string, flag_values=values)
  text("config", None, "File of the sweep.", required=True)
  text("workdir", None, "Its directory or URL.", required=True)
  whole("tasks", None, "Elements of the array.", required=True)
  text("name", None, "Of the job.")
  text("partition", None, "Of Slurm.")
  text("account", None, "Of Slurm.")
  text("qos", None, "Quality of service.")
  whole("time", 240, "Minutes of one job; it is requeued then.")
  text("mem", None, "Memory of one node, as 16G.")
  whole("cpus", None, "Cores of one process.")
  whole("gpus", None, "GPUs of one node.")
  whole("nodes", 1, "Of one task: a process on each, joined.")
  whole("array_parallelism", 256, "Tasks at one time.")
  whole("signal_delay", 90, "Seconds of warning to end a shard.")
  several("setup", [], "Shell lines before, as module load.")
  several("option", [], "More of sbatch, as constraint=a100.")
  text("logs", None, "Their directory; else WORKDIR/.slurm.")
  whole("restarts", 3, "Of a process that was killed.")
  switch("wait", False, "Follows the sweep until all is there.")
  whole("resubmits", 3, "With --wait: of a task's job.")
  real("poll", 30.0, "With --wait: seconds between two looks.")
  real("stall", 1800.0, "With --wait: seconds until it worries.")
  switch("force", False, "Submits beside jobs that are alive.")
  switch("dry_run", False, "Prints the script for sbatch.")


if __name__ == "__main__":
  define_flags()
  app.run(main)
