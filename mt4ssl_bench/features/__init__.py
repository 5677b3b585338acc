"""What encoders make of audio: passes, the store of hidden states, extraction, units."""
