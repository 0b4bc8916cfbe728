"""Which words of a text matter to a model behind an OpenAI-compatible service?

  OPENAI_API_KEY=... python -m experiments.closed_model \
    --url=https://api.openai.com/v1 --model=gpt-4.1-nano \
    --text="slow at first , but worth every minute" --cache=answers.jsonl

Players are the words of `--text`. For each mask the service is sent the kept
words inside `--prompt`, and asked for one token with the log probabilities of
the likeliest ones. The value is log p(answer) - log p(rival), in nat. Where one
of the two is not among the likeliest, it counts as the least of those: a bound
on its log probability from above, so the value is cut off at that margin.

One call a mask, at the service's price: 500 by default. Calls are paced, failed
ones are tried again, and every answer is kept in `--cache`, so that a run that
was stopped goes on where it was, for nothing. A service need not be
deterministic; what it answered first is what counts.

The key is sent to `--url` alone, which is https, or on this machine
(`ablate.services`). `tests/experiments` runs it against a local server.
"""

import dataclasses
import json
import math
import os

import jax
import numpy as np
from absl import flags

import spex_jax as spex
from experiments import command
from spex_jax.ablate import closed, evaluate, services


@dataclasses.dataclass(frozen=True)
class Client:
  """Chat completions of one model.

  Attributes:
    url: of the service, up to and with its version, as in ".../v1".
    model: its name there.
    key: sent as a bearer token; "" for none. Never written anywhere.
    likeliest: how many log probabilities to ask for; 20 is OpenAI's most.
    timeout: seconds until a call counts as failed.

  Raises:
    ValueError: a url that is neither https nor on this machine.
  """

  url: str
  model: str
  key: str = dataclasses.field(default="", repr=False)
  likeliest: int = 20
  timeout: float = 60.0

  def __post_init__(self):
    self._service  # noqa: B018  Refuses an address at once.

  @property
  def _service(self) -> services.Service:
    return services.Service(self.url, self.key, self.timeout)

  def first_token(self, prompt: str) -> dict[str, float]:
    """The likeliest first tokens of the answer, and their log probabilities.

    Raises:
      services.Overloaded, services.Refused: as `services.Service.post`; an
        answer without log probabilities that are numbers is refused.
    """
    service = self._service
    answer = service.post(
      "/chat/completions",
      {
        "model": self.model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": self.likeliest,
      },
    )
    try:
      [token] = answer["choices"][0]["logprobs"]["content"]
      found = {
        entry["token"]: float(entry["logprob"])
        for entry in token["top_logprobs"]
      }
    except (LookupError, TypeError, ValueError, OverflowError) as error:
      raise services.Refused(
        f"{self.url} gave no log probabilities of {self.model}; does it "
        f"support `logprobs`? It said {service.safe(json.dumps(answer))}."
      ) from error
    if not all(math.isfinite(value) for value in found.values()):
      raise services.Refused(
        f"{self.url} gave NaN or infinity as log probabilities of {self.model}."
      )
    if not found:
      raise services.Refused(
        f"{self.url} gave an empty list of log probabilities."
      )
    return found


@dataclasses.dataclass(frozen=True)
class Question:
  """A text whose words are the players, and what is asked about it.

  Attributes:
    text: its words are separated by spaces.
    prompt: with "{text}" where the kept words go.
    answer: a token, as the model writes it.
    rival: another.
  """

  text: str
  prompt: str
  answer: str
  rival: str

  def __post_init__(self):
    if "{text}" not in self.prompt:
      raise ValueError("The prompt must hold {text} where the words go.")
    if not self.words:
      raise ValueError("The text has no words.")

  @property
  def words(self) -> list[str]:
    return self.text.split()

  def margin(self, mask: np.ndarray, client: Client) -> float:
    """log p(answer) - log p(rival) with the words that `mask` keeps."""
    kept = " ".join(w for w, keep in zip(self.words, mask) if keep)
    found = client.first_token(self.prompt.replace("{text}", kept))
    least = min(found.values())
    return found.get(self.answer, least) - found.get(self.rival, least)


def evaluator(
  client: Client,
  question: Question,
  *,
  cache: closed.File | None = None,
  retry: closed.Retry | None = None,
  calls_per_second: float | None = None,
  progress: evaluate.Progress | None = None,
) -> evaluate.Evaluator:
  """The value function of `question`: one call a mask."""

  def fn(masks):
    return np.array([question.margin(mask, client) for mask in masks])

  return evaluate.host(
    fn,
    len(question.words),
    batch_size=1,  # Every answer is on disk before the next is asked for.
    retry=retry or closed.Retry((services.Overloaded,)),
    calls_per_second=calls_per_second,
    cache=cache,
    progress=progress,
  )


def cache_config(client: Client, question: Question) -> str:
  """Everything that an answer depends on, for `closed.File`."""
  model = {
    name: getattr(client, name) for name in ("url", "model", "likeliest")
  }
  return json.dumps([model, dataclasses.asdict(question)], sort_keys=True)


def explain(
  client: Client,
  question: Question,
  *,
  cache: str | os.PathLike,
  budget: int,
  calls_per_second: float | None,
) -> tuple[spex.Explanation, evaluate.Stats]:
  """Asks at most `budget` masks, and explains the answers."""
  with closed.File(cache, cache_config(client, question)) as file:
    value_fn = evaluator(
      client, question, cache=file, calls_per_second=calls_per_second
    )
    explanation = spex.explain(
      value_fn, value_fn.n, budget=budget, key=jax.random.key(0)
    )
  return explanation, value_fn.stats


def main(argv):
  """Asks the service, and prints the words by their weight."""
  del argv
  args = flags.FLAGS
  client = Client(args.url, args.model, os.environ.get("OPENAI_API_KEY", ""))
  question = Question(args.text, args.prompt, args.answer, args.rival)
  explanation, stats = explain(
    client,
    question,
    cache=args.cache,
    budget=args.budget,
    calls_per_second=args.calls_per_second,
  )
  print(explanation.interactions("FBII", order=2, names=question.words))
  print(stats)


if __name__ == "__main__":
  flags.DEFINE_string("url", "https://api.openai.com/v1", "Of the service.")
  flags.DEFINE_string("model", None, "Its name there.", required=True)
  flags.DEFINE_string("text", None, "The words are players.", required=True)
  flags.DEFINE_string(
    "prompt",
    "Is this review positive or negative? Answer with one word.\n\n{text}",
    "With {text} where the kept words go.",
  )
  flags.DEFINE_string("answer", "Positive", "A token, as the model writes it.")
  flags.DEFINE_string("rival", "Negative", "Another.")
  flags.DEFINE_integer("budget", 500, "Masks, so calls.")
  flags.DEFINE_float("calls_per_second", 5.0, "At most.")
  flags.DEFINE_string("cache", "answers.jsonl", "File that keeps the answers.")
  command.start(main)
