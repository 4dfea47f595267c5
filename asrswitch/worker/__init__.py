"""The measured process. Imports only the standard library, cffi and ``asrswitch.native``."""
