"""Ours against the peers: `make bench NAME=...` prints a table and, last, one JSON line."""
