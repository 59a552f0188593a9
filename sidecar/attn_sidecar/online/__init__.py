"""`--online`: between two discovery runs, how far what arrives has left what the served run saw. Changes no answer."""
