"""Boxes around faces: what detectors return, suppression of doubles, matching with the truth, drawing."""
