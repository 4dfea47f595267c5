"""Renderings of summaries and records."""
