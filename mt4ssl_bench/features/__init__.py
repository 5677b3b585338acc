"""Features of audio: passes of an upstream, the feature store, extraction, units."""
