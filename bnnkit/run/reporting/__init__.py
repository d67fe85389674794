"""A report as tables, charts, HTML, Markdown and JUnit."""
