"""From a recipe to a merged checkpoint: recipe -> plan -> engine -> receipt."""
