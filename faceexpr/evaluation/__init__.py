"""What judges a model: torchmetrics callbacks, the figures they draw and the files they write."""
