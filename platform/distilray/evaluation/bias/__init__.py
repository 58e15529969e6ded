"""What a masked language model says of groups of people: the card's probes, CrowS-Pairs, StereoSet."""
