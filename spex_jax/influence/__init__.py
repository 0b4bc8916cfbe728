"""How training examples move predictions, measured by retraining."""
