"""The verbs of ``hindsight capture``, a module each: ``configure(verbs)`` adds its parser."""
