"""Social bias of masked language models: the model card's probes, CrowS-Pairs and StereoSet."""
