"""Files that survive a crash: atomic writes, digests. Knows no federated learning."""
