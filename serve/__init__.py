"""Serving: the gateway and the model deployments behind it, on Ray Serve."""
