"""Fine-tuning and search: the train loop, Ray Train, Ray Tune, export and promotion."""
