"""Recommendations as rules: what a run's figures say should be done, by thresholds that are conventions."""
