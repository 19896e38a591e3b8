"""Models, training, evaluation and reports. Reads sealed shards; never imports dask."""
