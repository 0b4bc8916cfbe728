"""Tables and figures of interactions: `spex.report.network(interactions)`."""

from spex_jax.report import page as page
from spex_jax.report.plots import bars as bars
from spex_jax.report.plots import image as image
from spex_jax.report.plots import network as network
from spex_jax.report.plots import save as save
