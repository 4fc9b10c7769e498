//! Entry points that feed bytes from outside to a parser and check what it makes of them.
