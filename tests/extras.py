"""What the halves install."""

OF_TRAINING = (
    "torch",
    "transformers",
    "datasets",
    "optuna",
    "peft",
    "sklearn",
    "scipy",
    "matplotlib",
    "onnx",
    "safetensors",
)
"""What `tuneserve[serve]` leaves out."""
