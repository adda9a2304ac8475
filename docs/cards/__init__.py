"""The parts of ``docs/model_card.py``."""
