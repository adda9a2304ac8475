"""LightningModules: one for each way of training."""
