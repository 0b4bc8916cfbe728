"""Figures of `bench_decoders`: R^2 against budget and number of terms.

Small multiples, a panel for each game; ours is the thick red line.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

from experiments import decoder_report, rows
from spex_jax.report import plots

_SIZES = (10, 30, 100, 300)
_COLORS = {
  ("ours", decoder_report.MAIN): "#b2182b",
  ("peer", "proxyspex"): "#2166ac",
  ("peer", "trees"): "#67a9cf",
  ("peer", "lasso1"): "#999999",
  ("peer", "lasso2"): "#444444",
}


def draw(measured: Sequence[rows.Row], folder: pathlib.Path) -> None:
  """Writes `r2_by_budget.png` and `r2_by_terms.png` into `folder`."""
  folder.mkdir(parents=True, exist_ok=True)
  found = decoder_report.cells(measured)
  names = list(dict.fromkeys(game for game, _ in found))
  figure, panels = _panels(names)
  for name, axes in zip(names, panels):
    budgets = [budget for game, budget in found if game == name]
    for who, color in _COLORS.items():
      heights = [
        decoder_report.value(found[name, budget], *who) for budget in budgets
      ]
      _line(axes, budgets, heights, who, color)
    axes.set_xscale("log", base=2)
    axes.set_xticks(budgets, [f"{budget:,}" for budget in budgets])
    axes.minorticks_off()
  _finish(figure, panels, "masks")
  plots.save(figure, folder / "r2_by_budget.png")

  figure, panels = _panels(names)
  for name, axes in zip(names, panels):
    budgets = [budget for game, budget in found if game == name]
    budget = 1024 if 1024 in budgets else budgets[-1]
    fits = found[name, budget]
    for who, color in _COLORS.items():
      if who == ("peer", "trees"):  # They have no terms.
        continue
      heights = [
        decoder_report.value(fits, *who, f"r2@{size}") for size in _SIZES
      ]
      places: list[float] = list(_SIZES)
      terms = decoder_report.value(fits, *who, "terms")
      if terms and terms > _SIZES[-1]:
        places, heights = (
          [*places, terms],
          [*heights, decoder_report.value(fits, *who)],
        )
      _line(axes, places, heights, who, color)
    axes.set_xscale("log")
    axes.set_xticks(_SIZES, [str(size) for size in _SIZES])
    axes.minorticks_off()
    axes.set_title(f"{name}, {budget:,} masks", fontsize=9)
  _finish(figure, panels, "terms (the largest)")
  plots.save(figure, folder / "r2_by_terms.png")


def _panels(names: Sequence[str]) -> tuple[Any, list[Any]]:
  from matplotlib import figure  # Slow to import.

  columns = min(4, len(names))
  lines = -(-len(names) // columns)
  out = figure.Figure(
    figsize=(3 * columns, 2.6 * lines + 0.4), layout="constrained"
  )
  panels = list(out.subplots(lines, columns, squeeze=False).ravel())
  for axes in panels[len(names) :]:
    axes.axis("off")
  for name, axes in zip(names, panels):
    axes.set_title(name, fontsize=9)
  return out, panels[: len(names)]


def _line(axes, places, heights, who, color):
  points = [(x, y) for x, y in zip(places, heights) if y is not None]
  if points:
    mine = who[0] == "ours"
    axes.plot(
      *zip(*points),
      color=color,
      lw=2.2 if mine else 1.3,
      marker="o" if mine else ".",
      ms=5,
      zorder=3 if mine else 2,
      label=who[1] if mine else f"{who[1]} (peer)",
    )


def _finish(figure, panels, label):
  for axes in panels:
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -0.3), min(high, 1.02))
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
  figure.supxlabel(label, fontsize=10)
  figure.supylabel("R² on test masks", fontsize=10)
  known: dict[str, Any] = {}
  for axes in panels:
    for handle, text in zip(*axes.get_legend_handles_labels()):
      known.setdefault(text, handle)
  figure.legend(
    known.values(),
    known.keys(),
    loc="outside upper center",
    ncols=len(known) or 1,
    fontsize=8,
    frameon=False,
  )
