"""Contexts: PECoRe and citations in time, beside Inseq and ContextCite.

  python -m experiments.bench_context --config=full --model=DIR --peer=PYTHON

  pecore   seconds a response: sensitive tokens by KL, and saliency of the three
           most sensitive, of 200 tokens of context
  cite     forwards a second under ContextCite's masks, 12 sources
  reuse    forwards a second with and without what kept sources share
           (`ablate.trie`), of a context of 1,000 tokens: sentences under
           uniform masks, eight documents under some of theirs, and each
           sentence left out; without it all designs cost the same

Without `--model` a network of GPT-2's kind is random: the peer makes one that
both load, or there is none beside ours. `PYTHON` is an environment with Inseq
0.7.1 and context-cite 0.0.4 (`third_party/time_context.py`); without one its
rows say so. Compilation is timed apart.

Expect, with SmolLM2-135M-Instruct on 2 idle CPU cores, 2.40 s a response, 4.8
times Inseq's rate, and 6.11 forwards/s, 2.33 times ContextCite's. Without the
peer `--rows=pecore` takes half a minute of the processor and `--rows=cite` a
minute; the whole command was not timed.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from absl import app, flags

from experiments import bench_networks, command, context_support, rows
from spex_jax import context
from spex_jax.context import fitting, scoring
from spex_jax.context import sources as sources_lib
from spex_jax.masks import sampling
from spex_jax.models import gpt2, hub, sites
from spex_jax.models import tokens as tokens_lib

KINDS = ("pecore", "cite", "reuse")
_QUERY = "So the old bridge was painted"
_RESPONSE = " green near the river on Monday and the shop closed in the yard"


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes of what is measured.

  Attributes:
    layers: of the random network.
    width: of its stream.
    heads: of it.
    vocabulary: of it.
    tokens: of the context, about, for `pecore` and `cite`.
    sources: of `cite`.
    long: tokens of the context, about, for `reuse`.
    forwards: of `cite`.
    shared: of each row of `reuse`, at most; a third as many of whole rows.
    batch_sizes: that ContextCite is tried at.
    repeats: of `pecore` and `cite`, behind the first call; `reuse` is timed
      once.
  """

  layers: int
  width: int
  heads: int
  vocabulary: int
  tokens: int
  sources: int
  long: int
  forwards: int
  shared: int
  batch_sizes: tuple[int, ...]
  repeats: int


CONFIGS = {
  "quick": Config(2, 32, 2, 128, 24, 3, 24, 6, 5, (1,), 1),
  "full": Config(12, 768, 12, 8192, 200, 12, 1000, 32, 24, (1, 8), 1),
}


def words() -> list[str]:
  """All words of the texts."""
  text = " ".join((*context_support.FILLERS, _QUERY, _RESPONSE))
  return sorted({*text.replace(".", " . ").split()})


def texts(tokens: int, count: int) -> list[str]:
  """So many sources, of about so many tokens together."""
  rng = np.random.default_rng(0)
  fillers = context_support.FILLERS
  per_sentence = np.mean([len(each.split()) + 1 for each in fillers])
  total = max(count, round(tokens / per_sentence))
  drawn = [fillers[k] for k in rng.integers(0, len(fillers), total)]
  parts = np.array_split(np.arange(total), count)
  return [" ".join(drawn[k] for k in part) for part in parts]


def _positions(config: Config) -> int:
  return 2 * max(config.tokens, config.long) + 128


def random_network(config: Config) -> sites.Network:
  """Of GPT-2's kind, not trained; its tokens are the words of the texts."""
  import tokenizers

  specials = {"pad": 0, "eos": 1, "unk": 2}
  known = [*(f"<{role}>" for role in specials), *words()]
  backend = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(
      {word: k for k, word in enumerate(known)}, unk_token="<unk>"
    )
  )
  backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  net = gpt2.network(
    bench_networks.shape(
      config.layers, config.width, config.heads, _positions(config),
      config.vocabulary,
    )
  )  # fmt: skip
  return dataclasses.replace(
    net,
    params=jax.jit(net.init)(jax.random.key(0)),
    tokenizer=tokens_lib.Tokenizer(backend, specials),
  )


def run(
  config: Config,
  net: sites.Network,
  folder: str,
  peer: str | None = None,
  kinds: Sequence[str] = KINDS,
) -> Iterator[rows.Row]:
  """Measures ours, and a peer in the interpreter that is given."""
  common = rows.common("context")
  made = {"pecore": _pecore, "cite": _cite, "reuse": _reuse}
  for kind in kinds:
    best = None
    for row in made[kind](config, net):
      yield common | row
      if kind != "reuse":
        best = row
    if kind == "reuse" or best is None:
      continue
    unit = "sentences_per_s" if kind == "pecore" else "forwards_per_s"
    if peer is None:
      yield common | {"who": f"{kind}, peer", "skipped": "no --peer"}
      continue
    row = ask(peer, _settings(config, kind, folder))
    if "skipped" not in row:
      row["ours_over_this"] = round(best[unit] / row[unit], 2)
    yield common | {"who": f"{kind}, peer"} | row


def ask(python: str, settings: dict) -> rows.Row:
  """A row of the peers' script, in their interpreter; a failure is one too."""
  script = pathlib.Path(__file__).parents[1] / "third_party" / "time_context.py"
  settings = settings | {"threads": os.cpu_count() or 1}
  done = subprocess.run(
    [python, str(script), json.dumps(settings)],
    capture_output=True, text=True, check=False,
  )  # fmt: skip
  if done.returncode:
    return {"skipped": "".join(done.stderr.strip().splitlines()[-1:])}
  return json.loads(done.stdout.splitlines()[-1]) | {"load": load()}


def load() -> float:
  """How many processes ran of late."""
  return round(os.getloadavg()[0], 1)


def _settings(config, kind, folder):
  common = {"task": kind, "folder": folder, "repeats": config.repeats}
  if kind == "pecore":
    return common | {
      "method": "saliency", "context": " ".join(texts(config.tokens, 1)),
      "current": _QUERY, "response": _RESPONSE.strip(), "cues": 3,
    }  # fmt: skip
  return common | {
    "sources": texts(config.tokens, config.sources), "query": _QUERY,
    "response": _RESPONSE, "forwards": config.forwards,
    "batch_sizes": list(config.batch_sizes),
  }  # fmt: skip


def _pecore(config, net) -> Iterator[rows.Row]:
  (text,) = texts(config.tokens, 1)

  def attribute():
    runs = context.Runs.of_text(
      net, context=text, current=_QUERY, response=_RESPONSE
    )
    return context.pecore(
      net, runs, selector="top_k", selector_settings={"k": 3}
    )

  first, best = rows.seconds(attribute, repeats=config.repeats)
  found = attribute()
  yield {
    "who": "pecore, ours", "tokens": found.runs.num_context,
    "response": len(found.sensitivity), "cues": len(found.cues),
    "first_s": round(first, 3), "best_s": round(best, 3),
    "sentences_per_s": round(1 / best, 4), "load": load(),
  }  # fmt: skip


def _scored(net, sources, masks, repeats=0, **settings):
  """Times a scorer: compilation, and the masks; and its memory in MiB."""
  scorer = scoring.scorer(
    net, sources, _RESPONSE, budget=len(masks), **settings
  )
  scorer.expect(len(masks))
  begin = time.perf_counter()
  memory = scorer.memory_bytes or 0
  compiled = time.perf_counter() - begin
  _, best = rows.seconds(scorer, masks, repeats=repeats)
  return {
    "tokens": sources.prompt.num_tokens + len(scorer.response),
    "sources": sources.n, "forwards": len(masks),
    "compile_s": round(compiled, 3), "best_s": round(best, 3),
    "forwards_per_s": round(len(masks) / best, 4),
    "memory_mib": round(memory / 2**20), "load": load(),
  }  # fmt: skip


def _cite(config, net) -> Iterator[rows.Row]:
  sources = sources_lib.of_texts(
    texts(config.tokens, config.sources), _QUERY, net.tokenizer, bos="no"
  )
  masks = np.unique(
    fitting.context_cite_masks(config.forwards, sources.n), axis=0
  )
  for reuse in (False, True):
    name = "cite, ours" + (", shared" if reuse else ", whole rows")
    yield {"who": name} | _scored(
      net, sources, masks, config.repeats, reuse=reuse
    )


def _reuse(config, net) -> Iterator[rows.Row]:
  count = max(4, config.long // 30)
  make = lambda number: sources_lib.of_texts(
    texts(config.long, number), _QUERY, net.tokenizer, bos="no"
  )
  many, few = make(count), make(min(8, count))
  draw = lambda number, n: sampling.distinct(
    jax.random.key(0), min(number, 1 << min(n, 30)), n
  )
  whole = _scored(net, many, draw(config.shared // 3, many.n), reuse=False)
  yield {"who": "reuse, whole rows"} | whole
  left = sampling.leave_one_out(many.n)
  left = left[np.linspace(0, many.n, config.shared).round().astype(int)]
  designs = {
    "uniform": (many, draw(config.shared, many.n)),
    "documents": (few, draw(2 * config.shared, few.n)),
    "one left out": (many, left),
  }
  for name, (sources, masks) in designs.items():
    row = _scored(net, sources, masks, reuse=True)
    over = row["forwards_per_s"] / whole["forwards_per_s"]
    yield {"who": f"reuse, {name}"} | row | {"over_whole": round(over, 2)}


def main(argv: Sequence[str]) -> None:
  """Prints the rows that are asked for."""
  del argv
  given = flags.FLAGS
  config = CONFIGS[given.config]
  with tempfile.TemporaryDirectory() as folder:
    path = given.model or folder
    if given.model is None and given.peer is not None:
      made = words()
      made += [f"w{k}" for k in range(config.vocabulary - 3 - len(made))]
      settings = dataclasses.asdict(config) | {
        "task": "make", "folder": folder, "words": made,
        "positions": _positions(config),
      }  # fmt: skip
      row = ask(given.peer, settings)
      if "skipped" in row:
        raise app.UsageError(row["skipped"])
    alone = given.model is None and given.peer is None
    net = random_network(config) if alone else hub.load(path)
    rows.write(run(config, net, path, given.peer, given.rows), given.output)


def _define() -> None:
  flags.DEFINE_string("model", None, "A checkpoint of a language model.")
  flags.DEFINE_string("peer", None, "Interpreter of the peers.")
  command.some_of("rows", KINDS, KINDS, "Which rows")


if __name__ == "__main__":
  _define()
  command.run(main, CONFIGS, "quick")
