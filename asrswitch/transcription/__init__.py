"""Transcription in this process: audio of any length, cut where it is quiet, and its text as it comes.

``api`` is what users call; ``sources`` reads audio, ``splitting`` cuts it, ``engine`` runs the library,
``transcript`` makes text of what it writes.
"""
