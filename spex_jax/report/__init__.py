"""Figures, tables and pages of results: `spex.report.network(interactions)`.

Figures of papers: `bars`, `waterfall`, `force`, `upset`, `network` and `pairs`
of any interactions, `image`, `sentence` and `grid` of those whose players
have places, `curves`, `circuit` and `heatmap` of circuits; `save` writes them.
"""

from spex_jax.report import page as page
from spex_jax.report.circuit_plots import circuit as circuit
from spex_jax.report.circuit_plots import curves as curves
from spex_jax.report.circuit_plots import heatmap as heatmap
from spex_jax.report.forces import force as force
from spex_jax.report.forces import pairs as pairs
from spex_jax.report.forces import upset as upset
from spex_jax.report.forces import waterfall as waterfall
from spex_jax.report.layers import grid as grid
from spex_jax.report.plots import bars as bars
from spex_jax.report.plots import image as image
from spex_jax.report.plots import network as network
from spex_jax.report.plots import save as save
from spex_jax.report.texts import sentence as sentence
