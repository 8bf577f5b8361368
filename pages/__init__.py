"""What makes documents: the reference out of the code, drawings out of merges, the site out of all pages."""
