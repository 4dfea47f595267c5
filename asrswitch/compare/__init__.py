"""Runs held against each other: what differs, by how much, and whether that can be told from chance."""
