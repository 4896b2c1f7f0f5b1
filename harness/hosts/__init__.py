"""Where commands run: this machine here; SSH and nested hosts come in beside it."""
