"""Reports read run folders and format; they compute nothing new."""

from rubrica.reports.run_report import render_report, write_report
from rubrica.reports.tables import before_after_table

__all__ = ["before_after_table", "render_report", "write_report"]
