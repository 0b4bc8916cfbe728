"""How the batch sizes of one evaluator come about, where none is given.

Not measured for a small job; as they were measured before; or measured now.
"""

import pathlib

from spex_jax.ablate import batching, choices, program


def sized(
  source: program.Source,
  build: batching.Build,
  *,
  limit: int | None,
  microbatch: int | None,
  expected: int | None,
  choices_path: pathlib.Path | None,
) -> tuple[program.Program, tuple[batching.Candidate, ...], str]:
  """A program, what was measured for it, and how it was chosen in words.

  Args:
    source: what programs are compiled from, on its devices.
    build: compiles one of some rows a device and some microbatch.
    limit: bytes on one device; None for what is free there.
    microbatch: the only one to consider, or None.
    expected: masks that will be asked in all, or None where nobody said.
    choices_path: where measurements are kept, or None.

  Raises:
    MemoryError: no size fits.
  """
  if limit is None:
    limit = batching.memory_limit(source.devices)
  cpu = source.devices[0].platform == "cpu"
  shards = source.num_shards
  if microbatch is None and expected is not None and expected <= batching.SMALL:
    made = batching.modest(build, -(-expected // shards), limit=limit, cpu=cpu)
    return made, (), "sizes not measured, as the job is small"
  name = ""
  if choices_path is not None and microbatch is None:
    name = source.fingerprint()
    found = choices.read(choices_path, name)
    made = None if found is None else build(*found)
    if made is not None and (
      limit is None or (made.memory_bytes or 0) <= limit
    ):
      return made, (), f"sizes as measured before, from {choices_path}"
  sizes = None
  if microbatch is not None:
    sizes = [microbatch]
  elif expected is not None:
    most = min(-(-expected // shards), batching.LARGEST)
    sizes = [1 << k for k in range(most.bit_length())]
  made, candidates = batching.choose(
    build, source.n, limit=limit, shrink=not cpu, sizes=sizes
  )
  said = "sizes measured"
  if choices_path is not None and name:
    choices.write(
      choices_path,
      name,
      made.rows // shards,
      made.microbatch,
      players=source.n,
      masks_per_second=max(c.masks_per_second or 0.0 for c in candidates),
      device=source.devices[0].device_kind,
    )
    said += f" and kept in {choices_path}"
  return made, candidates, said
