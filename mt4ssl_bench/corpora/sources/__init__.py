"""Where corpora come from: one file for each published corpus, toolkit or format."""
