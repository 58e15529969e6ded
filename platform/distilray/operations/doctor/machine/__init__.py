"""What this machine is: its processor, devices, disks and memory, open ports, and the environment of the process."""
