"""Uses of trained networks: predictions, evaluations, explanations, exports."""
