"""What switching between speech models costs, and whether the memory comes back."""

__version__ = "0.1.0"
