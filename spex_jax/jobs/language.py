"""The subject `lm`: parts of a prompt, and what a language model says next."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from spex_jax import settings
from spex_jax.ablate import (
  absent,
  evaluate,
  likelihoods,
  prefix,
  readouts,
  trie,
)
from spex_jax.ablate import text as text_lib
from spex_jax.jobs import networks, subjects
from spex_jax.models import generate, sites, tokens

READOUTS = ("log_probability", "probability", "logit", "margin")
EXAMPLE = "Once upon a time, there was a little girl named Lily. She loved to"
_SHOWN = 3  # Likeliest tokens.
_SHARED = 0.25  # Least share of the tokens that is worth a cache of its own.


@dataclasses.dataclass(frozen=True)
class Said(networks.Checkpoint):
  """A causal language model, and what of its next tokens is asked about."""

  target: str = settings.field(
    "",
    "what comes next, usually with its space in front; the model's own "
    "likeliest where empty",
  )
  bos: str = settings.field(
    "auto",
    "whether the text begins with a BOS token: as its tokenizer has it, yes, "
    "no",
    choices=tokens.BOS,
  )
  target_id: int | None = settings.field(
    None, "one token's number, in the place of target", low=0
  )
  num_tokens: int = settings.field(1, "of the model's own likeliest", low=1)
  readout: str = settings.field("log_probability", choices=READOUTS)
  rival: str = settings.field(
    "", "of readout=margin: the other token; all others where empty"
  )
  reduce: str = settings.field(
    "sum", "over the tokens of a continuation", choices=("sum", "mean")
  )


@dataclasses.dataclass(frozen=True)
class Language(networks.OfText, Said):
  """Which parts of a prompt are asked about."""

  subject: str = settings.field("lm", choices=("lm",))
  prefix: str = settings.field("", "in front of the text, and always there")
  text: str = settings.field(EXAMPLE, "that is read")
  suffix: str = settings.field("", "behind the text, and always there")
  absent: str = settings.field(
    "remove",
    "an absent player: taken out (remove), not seen by attention (hide), a "
    "token for each of its own (mask), one token (one)",
    choices=absent.WAYS,
  )
  token: str = settings.field("", "what absent tokens become: of mask and one")


def subject(config: Language, workdir: pathlib.Path) -> subjects.Subject:
  """Loads the model, chooses what it is asked about, and masks the prompt.

  Raises:
    ValueError: a setting out of range, or a model, prompt or target that
      cannot be used, named.
  """
  del workdir  # Nothing is trained.
  net = networks.load(config, "causal language model")
  tokenizer, limit = net.tokenizer, net.config.max_positions
  if not config.text:
    raise ValueError(f"The text is empty: {config.text!r}.")
  bos = config.bos
  if bos == "auto" and config.absent in ("hide", "remove"):
    # Something has to stay once every player is absent.
    starts = config.prefix or tokenizer.encode("a").special[0]
    bos = "auto" if starts or "bos" not in tokenizer.special else "yes"
  start = len(config.prefix)
  prompt = text_lib.prompt(
    config.prefix + config.text + config.suffix,
    tokenizer,
    networks.players(config),
    within=(start, start + len(config.text)),
    bos=bos,
    max_length=limit,
  )
  see, absent_facts = networks.absence(config, net, prompt)
  found = asked(config, net, prompt, see)
  ids, said = found.ids, found.said
  if len(ids) > 1:
    prompt, _ = text_lib.continued(
      prompt, ids.tolist(), tokenizer, max_length=limit
    )
    see, _ = networks.absence(config, net, prompt)
  kind = "matches" if config.pattern else config.players
  facts = {
    "model": networks.described(net, config.model),
    "prediction": found.prediction,
    "value": found.value,
  }
  if prompt.encoding.special[0]:
    first = tokenizer.token(int(prompt.encoding.ids[0]))
    facts["value"] += f"; {first} stands in front and always stays"
  evaluator, shared_facts = _evaluator(config, net, prompt, see, found)
  return subjects.Subject(
    question=f"Which {kind} of the prompt make the model say {said!r} next?",
    facts=facts | absent_facts | shared_facts,
    evaluator=evaluator,
    names=prompt.names,
    units=networks.UNITS[config.readout],
    game=networks.game(config, net, prompt, found.read),
    **networks.reader(prompt, found.value),
  )


class Asked(NamedTuple):
  """What a language model is asked about.

  Attributes:
    ids: int32 `[k]`, the tokens that are asked about.
    said: the text of these, with its space in front.
    prediction: what the model itself says next, in words.
    value: what is read off the logits, in words.
    read: the readout of that value.
  """

  ids: np.ndarray
  said: str
  prediction: str
  value: str
  read: readouts.Prediction


def asked(
  config: Said, net: sites.Network, prompt: text_lib.Prompt, see: Callable
) -> Asked:
  """The tokens that a configuration names, or the model's own, and how to read.

  Args:
    config: which tokens, and how they are read.
    net: a causal language model, with its parameters.
    prompt: the tokens of the text before those that are asked about.
    see: a mask to inputs of one row; asked for the whole prompt.

  Raises:
    ValueError: a target or rival that cannot be read.
  """
  tokenizer, limit = net.tokenizer, net.config.max_positions
  ids = _given(config, tokenizer, prompt, limit)
  if ids is not None and ids.max() >= net.config.vocab_size:
    last = net.config.vocab_size - 1
    raise ValueError(f"target_id={config.target_id} must lie in 0..{last}.")
  if ids is not None:  # What cannot be asked fails before any forward.
    _reading(config, tokenizer, prompt, ids, config.target)
  logits = networks.scores(net, see, _all_logits, prompt.n)
  if ids is None:
    ids = _own(config, net, prompt, logits)
  said = _piece(tokenizer, prompt.encoding.ids, ids)
  value, read = _reading(config, tokenizer, prompt, ids, said)
  likeliest = [
    f"{_piece(tokenizer, prompt.encoding.ids, [token])!r} {share:.1%}"
    for token, share in _likeliest(logits)
  ]
  prediction = f"next comes {', '.join(likeliest)}"
  return Asked(ids, said, prediction, value, read)


def _evaluator(
  config: Language,
  net: sites.Network,
  prompt: text_lib.Prompt,
  see: absent.Inputs,
  found: Asked,
) -> tuple[evaluate.Evaluator, dict[str, str]]:
  """The value function; what rows have in common is run once, where it pays."""
  read, count = found.read, len(found.ids) if len(found.ids) > 1 else 0
  own_sizes = config.batch_size is not None or config.microbatch is not None
  if (
    config.absent == "remove"
    and not own_sizes
    and trie.fits(net, prompt, count)
    and trie.affordable(net, prompt, net.params)
  ):
    score = trie.score_of(read)
    evaluator = trie.evaluator(
      net, prompt, count, score, params=net.params, tokenizer=net.tokenizer
    )
    return evaluator, {"shared": "what kept parts begin with alike is run once"}
  first = int((prompt.players.owner < prompt.n).argmax())
  if first - 1 < max(1, _SHARED * prompt.num_tokens):
    return networks.evaluator(config, net, see, read, prompt.n), {}
  evaluator = prefix.evaluator(
    net,
    prompt,
    read,
    config.absent,
    token=config.token or None,
    lengths=see.lengths,
    batch_size=config.batch_size,
    microbatch=config.microbatch,
  )
  some = f"the first {first - 1} of {prompt.num_tokens} tokens are run once"
  return evaluator, {"shared": some}


def _all_logits(output: sites.Output, inputs) -> jax.Array:
  """The logits of every token at the end of the text: `[B, V]`."""
  count = output.logits.shape[-1]
  return readouts.logit(range(count))(output, inputs)


def _given(
  config: Said, tokenizer: tokens.Tokenizer, prompt: text_lib.Prompt, limit: int
) -> np.ndarray | None:
  """The tokens that the configuration names, if any."""
  if config.target_id is not None:
    if config.target:
      raise ValueError("Give target or target_id, not both.")
    return np.array([tokenizer.check_id(config.target_id)], np.int32)
  if not config.target:
    return None
  longer, count = text_lib.continued(
    prompt, config.target, tokenizer, max_length=limit
  )
  ids = longer.encoding.ids[-count:]
  if tokenizer.special.get("unk") in ids.tolist():
    raise ValueError(
      f"target={config.target!r} holds what the vocabulary does not know."
    )
  return ids


def _own(
  config: Said, net: sites.Network, prompt: text_lib.Prompt, logits: np.ndarray
) -> np.ndarray:
  """The model's own likeliest `num_tokens`, one after the other."""
  if config.num_tokens == 1:
    return np.array([logits.argmax()], np.int32)
  run = jax.jit(
    lambda params: generate.generate(
      net, params, prompt.encoding.ids[None], config.num_tokens
    )
  )
  return np.asarray(run(net.params).tokens)[0]


def _reading(
  config: Said,
  tokenizer: tokens.Tokenizer,
  prompt: text_lib.Prompt,
  ids: np.ndarray,
  said: str,
) -> tuple[str, readouts.Prediction]:
  """What is read off the model, in words, and the readout."""
  name, count = config.readout, len(ids)
  if config.rival and name != "margin":
    raise ValueError(f"rival={config.rival!r} is for readout='margin' only.")
  if count > 1 and name not in ("log_probability", "probability"):
    raise ValueError(
      f"readout={name!r} is of one token, and {said!r} has {count}. Choose "
      "log_probability or probability."
    )
  if count > 1:
    log = name == "log_probability"
    read = likelihoods.continuation(count, reduce=config.reduce, log=log)
    mean = "mean " if config.reduce == "mean" else ""
    words = name.replace("_", "-")
    return f"{mean}{words} of the {count} tokens {said!r}", read
  token = int(ids[0])
  if name == "margin":
    if not config.rival:
      return f"logit({said!r}) above the largest other", readouts.margin(token)
    found, length = text_lib.continued(prompt, config.rival, tokenizer)
    if length > 1:
      raise ValueError(f"rival={config.rival!r} is {length} tokens, not one.")
    rival = int(found.encoding.ids[-1])
    what = f"logit({said!r}) - logit({config.rival!r})"
    return what, readouts.margin(token, rival)
  if name == "logit":
    return f"logit({said!r})", readouts.logit(token)
  if name == "log_probability":
    return f"log-probability of {said!r}", readouts.log_probability(token)
  return f"probability of {said!r}", readouts.probability(token)


def _likeliest(logits: np.ndarray) -> list[tuple[int, float]]:
  """The likeliest tokens and their probabilities."""
  shares = np.exp(logits - logits.max())
  shares /= shares.sum()
  return [(int(i), float(shares[i])) for i in shares.argsort()[::-1][:_SHOWN]]


def _piece(tokenizer: tokens.Tokenizer, before: np.ndarray, ids) -> str:
  """The text of tokens behind others, with the space that is part of it."""
  head = tokenizer.decode(before)
  whole = tokenizer.decode([*before, *ids])
  if whole.startswith(head) and len(whole) > len(head):
    return whole[len(head) :]
  # A special token, or a part of a character.
  return "".join(tokenizer.token(int(token)) for token in ids)
