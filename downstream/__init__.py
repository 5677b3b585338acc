"""Tasks that evaluate a model: everything between hidden states and a score; never imports upstream."""
