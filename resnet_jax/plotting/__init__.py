"""Pictures: curves, figures, contact sheets."""
