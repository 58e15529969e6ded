"""What people who run the line need around it: submitting jobs, planning hours and machines, checking a set-up."""
