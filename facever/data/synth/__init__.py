"""Drawn faces with known identity and known quality: `render` in memory, `synthesise` to disk."""

from facever.data.synth.layouts import LAYOUTS
from facever.data.synth.pictures import MEASURED, Pictures, render
from facever.data.synth.plan import Counts
from facever.data.synth.writing import synthesise

__all__ = ["LAYOUTS", "MEASURED", "Counts", "Pictures", "render", "synthesise"]
