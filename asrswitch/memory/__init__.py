"""Memory of a process, seen from outside."""
