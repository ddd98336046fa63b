"""Reads run directories: report, comparison, sweep page, and what the terminal shows of them."""
