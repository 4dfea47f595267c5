"""``python -m asrswitch bench``: each stage of the engine against what the processor can do at best."""
