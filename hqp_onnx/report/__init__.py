"""``report.json`` written and read, and what shows it: tables, and the page in ``report/html/``."""
