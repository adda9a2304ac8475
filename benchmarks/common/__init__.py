"""What several benchmarks share: images, and other people's detectors and systems."""
