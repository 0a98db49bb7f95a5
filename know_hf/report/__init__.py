"""Reports: tables always, plots where matplotlib is installed, and one page with both."""

from know_hf.report.run import change_rows, report_markdown, write_report
from know_hf.tables import table

__all__ = ["change_rows", "report_markdown", "table", "write_report"]
