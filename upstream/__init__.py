"""MT4SSL pretraining: everything between audio and a checkpoint; never imports downstream."""
