"""Arrays in, arrays out. No torch, no dask, no files: stages, training and serving all call these.

Names carry shapes: N audio samples, T frames, M mel bands, D dimensions of a vector, K centroids.
"""
