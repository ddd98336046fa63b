"""``python -m fedkit``."""

from fedkit.cli.main import main

main()
