"""The dashboard: the federation on a page on loopback, for whoever has a profile; see docs/operations.md."""
