"""What models that take text are given, and whether what they answer is right."""
