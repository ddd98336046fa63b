"""What uses privacy, data and training together: audits and federated statistics."""
