"""The verbs of the command line, a module each: ``main`` takes the words after the verb.

Each has ``make_parser``, which shell completion asks too, and may have

    REMEDY_FOR_OUTPUT   what to do when standard output cannot be written, in words
    READER_MAY_LEAVE    true where nothing is lost with output that nobody reads to its end
"""
