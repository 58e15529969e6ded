"""GLUE benchmark: scores with confidence intervals, comparison with a teacher, leaderboard submission."""
