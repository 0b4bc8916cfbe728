"""One response with its context and without it, as token ids and spans.

All of this room works on ids: no text is cut out and tokenized again, so that
the response has the same tokens in both runs and every score has its token.

Shapes: N and M tokens of the runs with and without context, R of the response,
P positions of the longer run, D of the decoder's longer input, V tokens of the
vocabulary.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from spex_jax import base
from spex_jax.context import templates
from spex_jax.models import generate, seq2seq, sites, tokens

Span = tuple[int, int]
Ids = Sequence[int] | np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Runs:
  """One response scored with and without its context; token ids only.

  Attributes:
    with_context: int32 `[N]`. Of a causal model the prompt with its context,
      then the response; of an encoder-decoder what the encoder reads.
    without_context: int32 `[M]`, the same without the context.
    response: int32 `[R]`. Both sequences of a causal model end with it; of an
      encoder-decoder the decoder's tokens behind its prefix.
    context: half open, where the context stands in `with_context`.
    output_context: half open, a context before the response: in
      `with_context`, or of an encoder-decoder in `decoder_with`; None where
      there is none.
    decoder_with: int32, the decoder's prefix: its start token and the output
      context. None for a causal model.
    decoder_without: the same without the output context.
    tokens: the vocabulary's spelling of each token of `with_context`, or None
      where nobody knows it.
    response_tokens: the spelling of each token of `response`, or None.
    output_context_tokens: the spelling of the output context's tokens, or None.

  Raises:
    ValueError: no token, of the response or before it, a response that a run
      does not end with, an empty or overlapping span or one outside its
      tokens, or the prefix of a decoder for one run alone.
  """

  with_context: np.ndarray
  without_context: np.ndarray
  response: np.ndarray
  context: Span
  output_context: Span | None = None
  decoder_with: np.ndarray | None = None
  decoder_without: np.ndarray | None = None
  tokens: tuple[str, ...] | None = None
  response_tokens: tuple[str, ...] | None = None
  output_context_tokens: tuple[str, ...] | None = None

  def __post_init__(self):
    names = ("with_context", "without_context", "response")
    decoders = ("decoder_with", "decoder_without")
    if (self.decoder_with is None) != (self.decoder_without is None):
      raise ValueError("An encoder-decoder needs both prefixes of its decoder.")
    for name in (*names, *(decoders if self.is_encoder_decoder else ())):
      object.__setattr__(self, name, ids_of(name, getattr(self, name)))
    size = len(self.with_context)
    if not self.is_encoder_decoder:
      size -= len(self.response)
      for name in names[:2]:
        ids = getattr(self, name)
        if ids[len(ids) - len(self.response) :].tolist() != (
          self.response.tolist()
        ):
          raise ValueError(
            f"{name} must end with the response: it ends with "
            f"{ids[-len(self.response) :].tolist()}, the response is "
            f"{self.response.tolist()}."
          )
        if len(ids) == len(self.response):
          raise ValueError(
            f"{name} is the response alone: a token must stand before it, to "
            "predict its first one. Keep a bos token."
          )
    context = _span("context", self.context, size)
    object.__setattr__(self, "context", context)
    if self.output_context is not None:
      within = size if self.decoder_with is None else len(self.decoder_with)
      own = _span("output_context", self.output_context, within)
      if self.decoder_with is None and own[0] < context[1]:
        raise ValueError(
          f"The output context {own} must stand behind the context {context}."
        )
      object.__setattr__(self, "output_context", own)

  @property
  def is_encoder_decoder(self) -> bool:
    return self.decoder_with is not None

  @property
  def num_context(self) -> int:
    """Tokens of the context."""
    return self.context[1] - self.context[0]

  @property
  def context_ids(self) -> np.ndarray:
    """int32 `[num_context]`."""
    return self.with_context[slice(*self.context)]

  @property
  def output_context_ids(self) -> np.ndarray:
    """int32, empty where there is no output context."""
    if self.output_context is None:
      return np.zeros(0, np.int32)
    within = self.decoder_with if self.is_encoder_decoder else self.with_context
    assert within is not None
    return within[slice(*self.output_context)]

  def inputs(self) -> dict[str, np.ndarray]:
    """Both runs as one batch: row 0 with its context, row 1 without.

    Returns:
      `input_ids` and `attention_mask` int32 `[2, P]`, padded behind; of an
      encoder-decoder also `decoder_input_ids` and `decoder_attention_mask`
      `[2, D]`: prefix and response but its last token.
    """
    given = tokens.padded([self.with_context, self.without_context])
    if self.is_encoder_decoder:
      assert self.decoder_with is not None
      assert self.decoder_without is not None
      prefixes = (self.decoder_with, self.decoder_without)
      rows = [
        np.append(np.asarray(prefix), self.response[:-1]) for prefix in prefixes
      ]
      decoder = tokens.padded(rows)
      given |= {f"decoder_{name}": rows for name, rows in decoder.items()}
    return given

  def places(self) -> np.ndarray:
    """Where each token of the response is predicted: int `[2, R]`.

    Positions of the rows of `inputs`, of an encoder-decoder the decoder's.
    """
    steps = np.arange(len(self.response))
    if self.is_encoder_decoder:
      assert self.decoder_with is not None
      assert self.decoder_without is not None
      firsts = [len(self.decoder_with), len(self.decoder_without)]
    else:
      firsts = [
        len(ids) - len(self.response)
        for ids in (self.with_context, self.without_context)
      ]
    return np.array(firsts)[:, None] - 1 + steps

  def check(self, net: sites.Network) -> None:
    """Raises where a network cannot run these.

    Raises:
      TypeError: a causal model where a decoder's prefix is given, or the other
        way round.
      ValueError: more tokens than it has positions, or an id outside its
        vocabulary.
    """
    is_pair = isinstance(net.module, seq2seq.EncoderDecoder)
    if is_pair != self.is_encoder_decoder:
      kind = "an encoder-decoder" if is_pair else "a causal model"
      raise TypeError(
        f"The network is {kind}; give "
        + ("encoder_with, encoder_without and decoder." if is_pair else "")
        + ("" if is_pair else "with_context, without_context, response_ids.")
      )
    limit, size = net.config.max_positions, net.config.vocab_size
    for name, rows in self.inputs().items():
      if name.endswith("ids") and limit is not None and rows.shape[1] > limit:
        raise ValueError(
          f"{name}: {rows.shape[1]} tokens, and the model takes {limit}. "
          "Shorten the context."
        )
      if name.endswith("ids") and rows.max() >= size:
        raise ValueError(
          f"{name}: id {rows.max()} is outside the vocabulary of {size}."
        )
    if self.response.max() >= size:
      raise ValueError(
        f"response: id {self.response.max()} is outside the vocabulary of "
        f"{size}."
      )

  @classmethod
  def of_ids(
    cls,
    net: sites.Network,
    with_context: Ids,
    without_context: Ids,
    response: Ids,
    context: Span,
    *,
    output_context: Span | None = None,
    decoder_with: Ids | None = None,
    decoder_without: Ids | None = None,
  ) -> "Runs":
    """Runs of a network from ids, checked against it.

    Args:
      net: a causal model, or an encoder-decoder.
      with_context: the ids with the context, as the attribute of that name.
      without_context: the ids without the context, as the attribute.
      response: the ids of the response, as the attribute.
      context: where the context stands, half open, as the attribute.
      output_context: where the output context stands, as the attribute; or
        None.
      decoder_with: of an encoder-decoder its start token by default.
      decoder_without: of an encoder-decoder its start token by default, too.

    Raises:
      TypeError, ValueError: as the class and `check`.
    """
    if isinstance(net.module, seq2seq.EncoderDecoder):
      start = [net.config.start_id]
      decoder_with = start if decoder_with is None else decoder_with
      decoder_without = start if decoder_without is None else decoder_without
    array = lambda name, ids: None if ids is None else ids_of(name, ids)
    pieces = _pieces(net.tokenizer)
    runs = cls(
      ids_of("with_context", with_context),
      ids_of("without_context", without_context),
      ids_of("response", response),
      context,
      output_context,
      array("decoder_with", decoder_with),
      array("decoder_without", decoder_without),
      pieces(with_context),
      pieces(response),
    )
    runs.check(net)
    if runs.output_context is None:
      return runs
    outer = pieces(runs.output_context_ids)
    return dataclasses.replace(runs, output_context_tokens=outer)

  @classmethod
  def of_dict(cls, net: sites.Network, given: Mapping[str, Any]) -> "Runs":
    """Runs from what a JSON file holds.

    Args:
      net: the network that the runs are of.
      given: `with_context`, `without_context`, `response_ids` and
        `context_span`; or of an encoder-decoder `encoder_with`,
        `encoder_without`, `decoder` (with its start token or without) and
        `context_span`. Optionally `output_context_span`; of an encoder-decoder
        half open in `decoder`, of which it begins the response's prefix.

    Raises:
      TypeError, ValueError: as `of_ids`; a field missing or not known.
    """
    is_pair = isinstance(net.module, seq2seq.EncoderDecoder)
    names = (
      ("encoder_with", "encoder_without", "decoder", "context_span")
      if is_pair
      else ("with_context", "without_context", "response_ids", "context_span")
    )
    missing = [name for name in names if name not in given]
    unknown = [n for n in given if n not in (*names, "output_context_span")]
    if missing or unknown:
      raise ValueError(
        f"Ids of this model need {', '.join(names)}, perhaps "
        f"output_context_span; missing {missing}, not known {unknown}."
      )
    own: Any = given.get("output_context_span")
    first, second, response = (
      ids_of(name, given[name]).tolist() for name in names[:3]
    )
    prefixes = {}
    if is_pair:
      start = net.config.start_id
      has_start = response[0] == start
      if own is not None:
        own = _span("output_context", own, len(response))
      response = response if has_start else [start, *response]
      if own is not None and not has_start:
        own = (own[0] + 1, own[1] + 1)
      stop = (
        1 if own is None else _span("output_context", own, len(response))[1]
      )
      begin = stop if own is None else own[0]
      prefixes["decoder_with"] = response[:stop]
      prefixes["decoder_without"] = response[:begin]
      response = response[stop:]
    span = _span("context", given["context_span"], len(first))
    return cls.of_ids(
      net, first, second, response, span, output_context=own, **prefixes
    )

  @classmethod
  def of_text(
    cls,
    net: sites.Network,
    *,
    context: str,
    current: str,
    response: str | Ids | None = None,
    template: "str | templates.Template" = templates.DEFAULT,
    contextless: "str | templates.Template | None" = None,
    output_context: str | Ids | None = None,
    params: Any = None,
    max_new_tokens: int = 32,
    bos: str = "auto",
  ) -> "Runs":
    """Runs from texts, which are tokenized once, as the model reads them.

    The run without context has the tokens of the other one but those of the
    context and of the space behind it (`templates.Template`).

    Args:
      net: a causal model, or an encoder-decoder, with a tokenizer.
      context: what may have been used; its tokens are the ones scored.
      current: the question, or the sentence to translate.
      response: a text, for a causal model usually with its leading space; or
        ids; None to generate it, greedily, with the context.
      template: how they stand together, `{context}` and `{current}`.
      contextless: another template, of `{current}` alone, for the run without
        context, tokenized by itself.
      output_context: the output context of the response: what the model wrote
        before it. A text or ids.
      params: the parameters of the network; its own by default.
      max_new_tokens: the most tokens of a response that is generated.
      bos: whether a BOS token stands first, as for `tokens.Tokenizer.encode`.

    Raises:
      TypeError: a context or question that is no string, or as `check`.
      ValueError: no tokenizer, an empty context, one that covers no token, a
        template without its placeholder, a response that is empty or whose
        tokens would join those before it, special tokens in the texts, or as
        `check`.
    """
    tokenizer = net.tokenizer
    if tokenizer is None:
      raise ValueError("The network has no tokenizer; give ids, Runs.of_ids.")
    is_pair = isinstance(net.module, seq2seq.EncoderDecoder)
    # The prompt with its context, and without: those that stay, or another.
    prompt = templates.encode(
      tokenizer, template, context, current, bos=bos, closed=is_pair
    )
    ids, span, stays = prompt.ids, prompt.context, prompt.stays
    if contextless is None:
      bare = ids[stays]
    else:
      bare = templates.encode(
        tokenizer, contextless, None, current, bos=bos, closed=is_pair
      ).ids
    # What stands before the response, and the response, made if not given.
    before = prompt.follow(tokenizer, output_context, "output context")
    params = net.params if params is None else params
    start = np.array([net.config.start_id] if is_pair else [], np.int32)
    head = start if is_pair else ids
    if response is None:
      given = {"input_ids": ids if is_pair else np.append(ids, before)}
      if is_pair:
        given["decoder_input_ids"] = np.append(start, before)
      answer = generated(net, params, given, max_new_tokens, tokenizer)
    else:
      answer = prompt.follow(tokenizer, response, "response", before)
    if not len(answer):
      raise ValueError("The response has no token; nothing can be attributed.")
    own = None
    if len(before):
      own = (len(head), len(head) + len(before))
    if is_pair:
      prefixes = {
        "decoder_with": np.append(start, before),
        "decoder_without": start,
      }
      return cls.of_ids(
        net, ids, bare, answer, span, output_context=own, **prefixes
      )
    whole = np.concatenate([ids, before, answer])
    return cls.of_ids(
      net, whole, np.append(bare, answer), answer, span, output_context=own
    )


def generated(
  net: sites.Network,
  params: Any,
  given: Any,
  max_new_tokens: int,
  tokenizer: tokens.Tokenizer,
) -> np.ndarray:
  """The greedy response to inputs `[P]`, int32 `[R]`, without the end token.

  Shorter than `max_new_tokens` where the model takes no more.

  Raises:
    ValueError: as `room`.
  """
  begun = given.get("decoder_input_ids", given["input_ids"])
  max_new_tokens = room(net, len(begun), max_new_tokens)
  end = tokenizer.special.get("eos")
  run = jax.jit(
    lambda params, given: generate.generate(
      net, params, max_new_tokens=max_new_tokens, end=end, **given
    )
  )
  made = run(params, {name: row[None] for name, row in given.items()})
  answer = np.asarray(made.tokens[0, : int(made.lengths[0])], np.int32)
  return answer[:-1] if len(answer) and answer[-1] == end else answer


def room(net: sites.Network, num_tokens: int, wanted: int) -> int:
  """How many new tokens stand behind so many, at most `wanted`.

  Raises:
    ValueError: none.
  """
  limit = net.config.max_positions
  if limit is None:
    return wanted
  if num_tokens >= limit:
    raise ValueError(
      f"The prompt with its context has {num_tokens} tokens, and the model "
      f"takes {limit}: no answer fits behind it. Shorten the context."
    )
  return min(wanted, limit - num_tokens)


def _pieces(tokenizer: tokens.Tokenizer | None):
  """Ids to the vocabulary's spelling; None without a tokenizer."""
  if tokenizer is None:
    return lambda ids: None
  return lambda ids: tuple(tokenizer.token(int(i)) for i in ids)


def ids_of(name: str, ids: Any) -> np.ndarray:
  """Ids as int32 `[...]`, one or more.

  Raises:
    TypeError: no integers.
    ValueError: no token, or one below 0 or above int32.
  """
  array = np.asarray(ids)
  if array.ndim != 1 or not array.size:
    raise ValueError(f"{name} must be at least one token id; got {ids!r}.")
  if array.dtype.kind not in "iu":
    raise TypeError(f"{name} must be token ids, integers; got {array.dtype}.")
  if array.min() < 0:
    raise ValueError(f"{name}: a token id must not be below 0.")
  if array.max() > np.iinfo(np.int32).max:
    raise ValueError(
      f"{name}: id {array.max()} is above int32, and outside any vocabulary."
    )
  return array.astype(np.int32)


def _span(name: str, span: Any, size: int) -> Span:
  if np.ndim(span) != 1 or len(span) != 2:
    raise ValueError(
      f"{name}: a span is (start, end), in tokens; got {span!r}."
    )
  start, end = (base.check_integer(x, f"An end of {name}") for x in span)
  if not 0 <= start < end <= size:
    raise ValueError(
      f"{name}: the span {(start, end)} is empty or outside the {size} tokens "
      "before the response."
    )
  return start, end
