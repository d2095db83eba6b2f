"""The rules of evidence: splits, paired statistics, labels, verdicts."""
