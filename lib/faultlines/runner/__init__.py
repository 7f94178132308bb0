"""What runs notebooks: jobs, a local pool, Slurm, sweeps."""
