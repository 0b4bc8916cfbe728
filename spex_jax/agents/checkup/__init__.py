"""The Vision Check-up: what a model of texts knows of pictures, by its code."""
