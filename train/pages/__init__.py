"""What a browser shows of models: one HTML file each, which opens offline."""
