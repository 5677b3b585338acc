"""What makes and checks a corpus: sources, prepare, check, segment, shard."""
