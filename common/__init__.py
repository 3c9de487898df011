"""What tuning and serving share: recipes, data, metrics, tracking, the registry, the cluster."""
