"""What `triage evaluate` is made of: judgements on a frozen set, measures with intervals, strata, plots, the report."""
