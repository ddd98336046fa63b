"""The peer of bench_deployed.py: a Flower app of the usual shape."""
