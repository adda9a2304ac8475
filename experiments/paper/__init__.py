"""Run the experiments of the paper and write docs/paper.md from their results."""
