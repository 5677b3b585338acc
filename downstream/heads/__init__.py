"""What tasks are made of: heads, CTC, units, beam search, SpecAugment."""
