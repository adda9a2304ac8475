"""One sweep for everything: a grid or a search over any options of ``fit``, each trial an ordinary run."""
