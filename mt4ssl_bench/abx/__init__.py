"""Phone, word and speaker ABX: how well frames tell categories apart, without any training."""
