"""One concern around every call of a server each: traces, metrics, errors, tokens, deadlines, and the end of endless streams."""
