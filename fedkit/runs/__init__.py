"""The run directory: what a run says, as files. No training, no Flower."""
