"""Kinds of encoders, one file each; another file here is another kind."""
