"""What a result shows of itself: its table, what it is worth, a picture.

Every public result says so once, in `sheet`; frames of pandas, notebooks and
pages are made of that. Who draws (`report.page`) stands above all rooms that
have results, and announces itself by `drawn_by`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Sheet(NamedTuple):
  """A result, as it is laid out.

  Attributes:
    title: what it is, in words.
    columns: the columns of its table, by name, all of one length; the first
      rows matter most.
    trust: what it is worth: a name, what is told, and whether that speaks
      against believing it.
    facts: what else is told, by name.
    views: pictures, as the script of a page draws them: see
      `report.page.views`.
  """

  title: str
  columns: Mapping[str, Any]
  trust: Sequence[tuple[str, str, bool]] = ()
  facts: Mapping[str, str] = {}
  views: Sequence[Mapping[str, Any]] = ()


class Shown:
  """A result that pandas and notebooks take: of classes that have a `sheet`."""

  def sheet(self) -> Sheet:
    """What it shows of itself."""
    raise NotImplementedError

  def to_pandas(self) -> Any:
    """Its table as a `pandas.DataFrame`; the columns are those of `sheet`.

    Raises:
      ImportError: no pandas.
    """
    try:
      import pandas  # Only here.
    except ImportError:
      raise ImportError(
        "A DataFrame needs pandas (pip install pandas)."
      ) from None
    columns = self.sheet().columns
    # Cells may be tuples, of which pandas must not make further axes.
    return pandas.DataFrame(
      {name: list(column) for name, column in columns.items()}
    )

  def page(self, question: str = "") -> str:
    """One HTML file that stands alone, to look at: see `report.page`.

    Args:
      question: what was asked, in words; what it is by default.
    """
    return _DRAWN["page"](self, question)

  def _repr_html_(self) -> str:
    return _DRAWN["frame"](self.page())


_DRAWN: dict[str, Callable[..., str]] = {}


def drawn_by(
  page: Callable[[Shown, str], str], frame: Callable[[str], str]
) -> None:
  """Says how results are drawn.

  Args:
    page: from a result and a question to a page.
    frame: from a page to what a notebook shows.
  """
  _DRAWN.update(page=page, frame=frame)
