"""The ``faceexpr`` command: one file for each verb."""
