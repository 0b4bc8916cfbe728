"""`spex circuit dcm`: which heads carry a variable, by learned masks."""

import dataclasses
import pathlib

from spex_jax import settings
from spex_jax.circuits import dcm, desiderata, swaps
from spex_jax.jobs import circuits, circuits_paths, explain, networks, subjects
from spex_jax.report import clock as clock_lib
from spex_jax.report import plots


@dataclasses.dataclass(frozen=True)
class Dcm(circuits.Asked):
  """What is learned, and of which heads."""

  triples: str = settings.field(
    "", "a .jsonl file: base, source, target and perhaps desideratum; needed"
  )
  place: str = settings.field("-1", "of heads: a span, a position, or all")
  blocks: tuple[int, ...] = settings.field((), "whose heads; () for all")
  groups: str = settings.field(
    "",
    "a file of groups that `spex circuit paths` wrote: their heads alone are "
    "asked about, each at its place",
  )
  mlps: bool = settings.field(False, "whether MLPs are asked about, too")
  joint: bool = settings.field(False, "one mask for all desiderata together")
  penalty: str = settings.field("l1", "of patched heads", choices=dcm.PENALTIES)
  penalties: tuple[float, ...] = settings.field(
    (0.01, 0.03, 0.1, 0.3), "its weights"
  )
  seeds: int = settings.field(3, "beginnings", low=1)
  epochs: int = settings.field(10, "passes over the triples", low=1)
  budget: int = settings.field(
    500, "masks of an expansion beside it; 0 for none", low=0
  )
  method: str = settings.field("auto", "of that expansion")


def run(
  config: Dcm,
  workdir: pathlib.Path,
  show: circuits.Show | None = None,
  before: float = 0.0,
) -> tuple[dcm.Learned, ...]:
  """Learns masks, and writes a table and pictures into `workdir`.

  Args:
    config: the settings of the command.
    workdir: made if it does not exist.
    show: takes a line or a rich table; prints by default.
    before: seconds of the command that have passed already.

  Raises:
    ValueError: what is wrong with model, triples or settings.
  """
  explain.writable(workdir)
  said = clock_lib.Session(show, before)
  if not config.triples:
    raise ValueError("--triples is missing: a .jsonl file of triples.")
  with said.of("load"):
    net = circuits.load(config)
    metric = circuits.metric_of(config, net)
    asked = desiderata.load(
      pathlib.Path(config.triples).expanduser(), net.tokenizer,
      bos=config.bos, start=config.start,
    )  # fmt: skip
  said.tell("model", networks.described(net, config.model))
  if config.joint:
    asked = (desiderata.joint(asked),)
  count = net.config.num_blocks
  if outside := [b for b in config.blocks if not 0 <= b < count]:
    raise ValueError(f"blocks={outside}: the model has 0..{count - 1}.")
  # The members that masks are over: all that settings allow, or a file's.
  members = [
    (name, circuits_paths.place_of(config.place))
    for name in net.writers[1:]
    if (config.mlps or ".heads." in name)
    and (not config.blocks or int(name.split(".")[1]) in config.blocks)
  ]
  if config.groups:
    given = circuits_paths.load(config.groups).values()
    members = list(dict.fromkeys(member for group in given for member in group))
  key = subjects.key_of(config.seed, "dcm")
  with said.of("learn"):
    found = dcm.learn(
      net, net.params, asked, members, key=key, metric=metric,
      penalties=config.penalties, seeds=config.seeds, penalty=config.penalty,
      epochs=config.epochs, size=config.batch_size or 32,
    )  # fmt: skip
  # Of each desideratum rows, a picture, and the best mask beside it.
  rows, wrote = [], [workdir / "dcm.csv"]
  for one, given in zip(found, asked):
    for line in str(one).splitlines():
      said.tell("learned", line)
    rows += [
      {"desideratum": one.desideratum, "member": name, "kept": int(kept)}
      for name, kept in zip(one.members, one.mask)
    ]
    heads = {
      name.split(" @ ")[0]: 1.0 - kept
      for name, kept in zip(one.members, one.mask)
      if ".heads." in name
    }
    wrote.append(workdir / f"{one.desideratum.replace('/', '_')}.png")
    drawn = circuits_paths.picture(
      net, list(heads), list(heads.values()), "patched", one.desideratum
    )
    plots.save(drawn, wrote[-1])
    if config.budget or len(members) <= dcm.ENUMERABLE:
      with said.of("beside"):
        judge = swaps.Judge(net, net.params, given.triples, members, metric)
        other = dcm.beside(
          judge, one, method=config.method, budget=config.budget,
          key=subjects.key_of(config.seed, f"beside {one.desideratum}"),
        )  # fmt: skip
      said.tell("beside", str(other))
  circuits.write_rows(rows, wrote[0])
  said.end(*wrote)
  return found
