"""Reports: tables always, plots where matplotlib is installed, and one page with both."""

from know_hf.report.run import comparison, report_markdown, write_report
from know_hf.tables import table

__all__ = ["comparison", "report_markdown", "table", "write_report"]
