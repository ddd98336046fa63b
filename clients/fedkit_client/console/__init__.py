"""The console: a page on loopback for whoever answers for a site's data; see docs/operations.md, "Console"."""
