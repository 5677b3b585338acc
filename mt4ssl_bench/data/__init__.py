"""What both jobs read: audio, corpora, labels and lexicons, and the batches made of them."""
