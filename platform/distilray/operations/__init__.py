"""Operating a cluster: check it, plan a pipeline for it, submit jobs to it."""
