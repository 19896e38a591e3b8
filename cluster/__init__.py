"""Where work runs. Knows callables, keys and futures; nothing of audio."""
