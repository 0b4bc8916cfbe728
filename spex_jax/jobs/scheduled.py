"""Which task of a sweep this is: of flags, or of what a scheduler tells."""

import os
from collections.abc import Mapping
from typing import Any

# Pairs of variables: a task's index and count, as schedulers give them.
SCHEDULERS = (
  ("SPEX_TASK_INDEX", "SPEX_TASK_COUNT"),
  ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
  ("JOB_COMPLETION_INDEX", "SPEX_TASK_COUNT"),  # Kubernetes, Indexed Job.
)


def task_of(
  index: int | None = None,
  count: int | None = None,
  variables: Mapping[str, str] = os.environ,
) -> tuple[int, int]:
  """A task's index and count: given, of the scheduler, or all of the work.

  Args:
    index: the number of this task that a flag gave, from 0; None for none.
    count: how many tasks there are, that a flag gave; None for none.
    variables: the environment, in which a scheduler says both.

  Raises:
    ValueError: one without the other, or no whole numbers.
  """
  if index is not None or count is not None:
    return _task_of("--task_index", index, count)
  for name, number in SCHEDULERS:
    given = variables.get(name)
    if given is None:
      continue  # A count without an index is nobody's task.
    if name.startswith("SLURM") and given.isdigit():
      # An array of Slurm need not begin at 0.
      given = str(int(given) - int(variables.get("SLURM_ARRAY_TASK_MIN", "0")))
    return _task_of(name, given, variables.get(number))
  return 0, 1


def _task_of(name: str, index: Any, count: Any) -> tuple[int, int]:
  if index is None or count is None:
    raise ValueError(
      f"{name} needs both an index and a count of tasks; got {index} of "
      f"{count}. Give --task_index=I --task_count=N."
    )
  if not (str(index).isdigit() and str(count).isdigit()):
    raise ValueError(f"{name}: {index!r} of {count!r} are no whole numbers.")
  return int(index), int(count)
