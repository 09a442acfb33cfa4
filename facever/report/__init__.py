"""Self-contained HTML pages about runs."""

from facever.report.exhibits import Exhibits
from facever.report.live import LivePage
from facever.report.page import HARDEST, write_report
from facever.report.several import write_reports

__all__ = ["HARDEST", "Exhibits", "LivePage", "write_report", "write_reports"]
