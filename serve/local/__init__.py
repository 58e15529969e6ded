"""The service on this machine: address, server until a signal, a trial run."""
