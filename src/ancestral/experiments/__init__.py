"""From options to results: models built, trained into folders, measured, compared and reported."""
