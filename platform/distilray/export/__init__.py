"""Whether an exported model still answers as its source: parity, the gate of lossy formats, the job."""
