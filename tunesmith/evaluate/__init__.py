"""What a model's answers are worth: judged scores, text figures, the report. Imports no torch."""
