"""What the driver keeps of a run: its folder, data set, checkpoints, records, evaluations."""
