"""Tasks that evaluate a model: everything between hidden states and a score.

Never imports upstream.
"""
