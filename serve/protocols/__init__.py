"""The protocols that an endpoint speaks, a module each: from a body to texts, and from answers to its own shape."""
