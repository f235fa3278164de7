"""What runs many runs at a time: local processes, Ray, SLURM. Engines place and start; which runs, `running.sweep` says."""
