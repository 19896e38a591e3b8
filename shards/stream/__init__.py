"""Examples for training: in which order, from where, and from which one on after a kill."""
