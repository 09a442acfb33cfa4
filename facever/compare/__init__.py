"""The loss laboratory: the same data, encoder and budget for every loss, and what came of it."""

from facever.compare.laboratory import Comparison, Request, compare, markdown

__all__ = ["Comparison", "Request", "compare", "markdown"]
