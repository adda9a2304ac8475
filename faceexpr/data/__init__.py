"""Data sets as LightningDataModules, one a file."""
