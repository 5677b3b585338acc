"""Where corpora come from: one module for each published corpus, toolkit or format.

Every module here holds a SOURCE; its name is the module's.
"""
