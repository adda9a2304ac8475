"""What several benchmarks share: pictures, and other people's detectors and systems."""
