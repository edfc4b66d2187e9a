"""The vocabulary of the library: types, errors, events, settings, clock. Does no I/O and knows no other layer."""
