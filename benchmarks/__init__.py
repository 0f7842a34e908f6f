"""What Interlock costs, as ratios within one run. `python -m benchmarks --help`, and README.md beside this file."""
