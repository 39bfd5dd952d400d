"""Judging any model that answers questions: accuracy, calibration, and what its maps are worth."""
