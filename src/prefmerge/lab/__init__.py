"""The papers' experiments, and the demo. Nothing that serves a user's own models stands on this."""
