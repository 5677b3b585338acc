"""Any speech encoder behind one protocol: s3prl's, Hugging Face's, a class of the user's."""
