"""What accompanies every run: checkpoints, checks, progress, and the record of the configuration."""
