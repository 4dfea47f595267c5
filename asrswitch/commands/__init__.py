"""The verbs of the command line, a module each: ``main`` takes the words after the verb."""
