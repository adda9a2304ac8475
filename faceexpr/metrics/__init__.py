"""Numbers computed from predictions: of classifiers, of detectors, of their calibration, and of two runs compared."""
