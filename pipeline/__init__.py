"""What `dvc repro` runs: ingest, featurize, train, evaluate, package, report; the evidence rules."""
