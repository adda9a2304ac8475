"""The paper's experiments: run them, keep what they left, and write the page that compares them with the paper."""
