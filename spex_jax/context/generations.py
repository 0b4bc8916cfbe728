"""One generation: what a model read, and what it wrote, as ids.

Shapes: N tokens that were read, R of the response, D of a decoder's prefix, P
positions of the input.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from spex_jax.context import response_runs as runs_lib
from spex_jax.context import templates
from spex_jax.models import seq2seq, sites, tokens


@dataclasses.dataclass(frozen=True, eq=False)
class Generation:
  """A prompt, or what an encoder read, and a response to it.

  Attributes:
    source: int32 `[N]`, the ids of the prompt, or of what the encoder reads.
    response: int32 `[R]`, the ids of the response.
    prefix: int32 `[D]`, what a decoder begins with, its start token first;
      None for a causal model.
    pieces: the vocabulary's spelling of ids, by id.
  """

  source: np.ndarray
  response: np.ndarray
  prefix: np.ndarray | None = None
  pieces: dict[int, str] = dataclasses.field(default_factory=dict)

  def spelt(self, ids: Sequence[int] | np.ndarray) -> tuple[str, ...]:
    """Tokens as the vocabulary spells them, `<ID>` where nobody knows."""
    return tuple(self.pieces.get(int(i), f"<{int(i)}>") for i in ids)

  @property
  def before(self) -> np.ndarray:
    """What a step may have behind the source: int32, the last one's.

    The response of a causal model but its last token; of a decoder with its
    prefix in front.
    """
    rest = self.response[:-1]
    return rest if self.prefix is None else np.append(self.prefix, rest)

  def inputs(self) -> dict[str, np.ndarray]:
    """What the network takes, one row."""
    if self.prefix is None:
      return tokens.padded([np.append(self.source, self.before)])
    decoder = tokens.padded([self.before])
    return tokens.padded([self.source]) | {
      f"decoder_{name}": row for name, row in decoder.items()
    }

  def places(self) -> np.ndarray:
    """Where each token of the response is predicted: int `[R]`."""
    first = len(self.source if self.prefix is None else self.prefix) - 1
    return first + np.arange(len(self.response))

  @classmethod
  def of_ids(
    cls,
    net: sites.Network,
    source: runs_lib.Ids,
    response: runs_lib.Ids,
    prefix: runs_lib.Ids | None = None,
  ) -> "Generation":
    """A generation from ids, checked against its network.

    Args:
      net: a causal model, or an encoder-decoder.
      source: ids of the prompt, or of what the encoder reads.
      response: the ids of the response, which is attributed.
      prefix: the prefix of a decoder; its start token by default.

    Raises:
      TypeError: ids that are no integers, or a causal model with a prefix.
      ValueError: no token, one outside the vocabulary, or more than the model
        has positions.
    """
    is_pair = isinstance(net.module, seq2seq.EncoderDecoder)
    if prefix is not None and not is_pair:
      raise TypeError("A causal model has no decoder's prefix; leave it out.")
    if is_pair and prefix is None:
      prefix = [net.config.start_id]
    found = cls(
      runs_lib.ids_of("source", source),
      runs_lib.ids_of("response", response),
      None if prefix is None else runs_lib.ids_of("prefix", prefix),
    )
    size, limit = net.config.vocab_size, net.config.max_positions
    for name, row in {**found.inputs(), "response": found.response}.items():
      if name.endswith("mask"):
        continue
      if row.max() >= size:
        raise ValueError(
          f"{name}: id {row.max()} is outside the vocabulary of {size}."
        )
      if limit is not None and row.shape[-1] > limit:
        raise ValueError(
          f"{name}: {row.shape[-1]} tokens, and the model takes {limit}. "
          "Shorten the prompt."
        )
    if net.tokenizer is None:
      return found
    every = {*found.source.tolist(), *found.before.tolist()}
    every |= {*found.response.tolist()}
    return dataclasses.replace(
      found, pieces={i: net.tokenizer.token(i) for i in every}
    )

  @classmethod
  def of_text(
    cls,
    net: sites.Network,
    prompt: str,
    response: str | runs_lib.Ids | None = None,
    *,
    params: Any = None,
    max_new_tokens: int = 32,
    bos: str = "auto",
  ) -> "Generation":
    """A generation from texts, which are tokenized once.

    Args:
      net: a causal model, or an encoder-decoder, with a tokenizer.
      prompt: the prompt, or what the encoder reads; not empty.
      response: a text, for a causal model usually with its leading space; or
        ids; None to generate it, greedily.
      params: the parameters of the network; its own by default.
      max_new_tokens: the most tokens of a response that is generated.
      bos: whether a BOS token stands first, as for `tokens.Tokenizer.encode`.

    Raises:
      TypeError: a prompt that is no string, or as `of_ids`.
      ValueError: no tokenizer, a prompt of no token, a response that is empty
        or whose tokens would join those before it, special tokens in the
        texts, or as `of_ids`.
    """
    tokenizer = net.tokenizer
    if tokenizer is None:
      raise ValueError(
        "The network has no tokenizer; give ids, Generation.of_ids."
      )
    if isinstance(prompt, str) and not prompt.strip():
      raise ValueError(f"The prompt is empty: {prompt!r}.")
    is_pair = isinstance(net.module, seq2seq.EncoderDecoder)
    read = templates.encode(
      tokenizer, "{current}", None, prompt, bos=bos, closed=is_pair
    )
    params = net.params if params is None else params
    if response is None:
      given = {"input_ids": read.ids}
      if is_pair:
        given["decoder_input_ids"] = np.array([net.config.start_id], np.int32)
      answer = runs_lib.generated(net, params, given, max_new_tokens, tokenizer)
    else:
      answer = read.follow(tokenizer, response, "response")
    if not len(answer):
      raise ValueError("The response has no token; nothing can be attributed.")
    return cls.of_ids(net, read.ids, answer)

  @classmethod
  def of_runs(
    cls, net: sites.Network, runs: runs_lib.Runs, with_context: bool = True
  ) -> "Generation":
    """One of two runs of a response.

    Args:
      net: the network that the runs are of.
      runs: the response, with its context and without.
      with_context: the run with its context, else the one without.
    """
    whole = runs.with_context if with_context else runs.without_context
    prefix = runs.decoder_with if with_context else runs.decoder_without
    if prefix is None:
      whole = whole[: len(whole) - len(runs.response)]
    return cls.of_ids(net, whole, runs.response, prefix)
