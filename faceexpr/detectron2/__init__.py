"""Detectron2's detectors: trained by its own trainer on our records, measured by our metrics, used like any other."""
