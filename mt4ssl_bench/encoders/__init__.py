"""Speech encoders behind one protocol: MT4SSL, s3prl, Hugging Face, your own class."""
