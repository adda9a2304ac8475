"""Figures and images made from numbers, boxes and trained networks."""
