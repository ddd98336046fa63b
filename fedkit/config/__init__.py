"""What an experiment may say, how it is composed, and what it becomes: one frozen ``ExperimentConfig``."""
