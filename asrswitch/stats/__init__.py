"""From a series of memory readings to a verdict. Pure functions; knows nothing of processes."""
