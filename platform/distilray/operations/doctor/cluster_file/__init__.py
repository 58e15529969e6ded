"""Offline checks of a filled-in cluster file, before `ray up` starts machines that cannot work."""
