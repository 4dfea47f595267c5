"""Load, transcribe, unload under valgrind: what a library loses in every cycle, and where."""
