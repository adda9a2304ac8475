"""Boxes around faces: what detectors return, suppression of doubles, and matching with the truth."""
