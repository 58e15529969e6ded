"""The service on this machine: checks, address, proxy, server until a signal, a trial run."""
