"""Reading and writing of checkpoints and model files, and the model files that come with the package."""
