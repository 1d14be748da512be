"""What verbs share: the application, options that read the same everywhere, loading of models and masks, and output.

Verbs that other packages add may use it as the laboratory does.
"""
