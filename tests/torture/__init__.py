"""Long trials of what the README promises; `make torture` runs them, the tests a short form."""
