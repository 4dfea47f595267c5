"""What runs a model: one module a backend."""
