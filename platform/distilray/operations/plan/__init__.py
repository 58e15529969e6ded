"""What the line takes on which machines: hours, money, disk; its scaling, simulated."""
