"""Wrap Detectron2: its own trainer on our records, measured by our metrics, its detectors used like any other."""
