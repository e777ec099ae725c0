"""The names of the sets of drawings, for help texts too: free of heavy imports."""

from __future__ import annotations

OF_DATA = ("quickdraw", "icons", "tuberlin")
OWN = "own"  # edge maps of the model's own pictures: needs no data
GIVEN = "drawings"  # of whoever measures
