"""Run ``fit`` over a grid of its options, or search them with Optuna; each trial is an ordinary run."""
