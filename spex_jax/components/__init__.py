"""Which parts of a model matter to what it answers, and edits made of that."""
