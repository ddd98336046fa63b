"""Local training and evaluation as pure functions over a batch of sites."""
