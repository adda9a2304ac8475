"""Errors, files, text, labels and images: what every other part of the package stands on."""
