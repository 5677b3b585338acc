"""Tasks without training, and the scores of every layer."""
