"""Numbers: functions of features, the networks they look through, and the scoring of a model."""
