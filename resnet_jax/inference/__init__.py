"""What trained networks are used for: predictions, evaluations, explanations, exports."""
