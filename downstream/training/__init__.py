"""How heads are trained: frozen sweeps, fine-tuning, and the models that they leave."""
