"""Audio in, shards out: the stages, and the array functions that they share with training."""
