"""Questions of speed, each with a yardstick that runs beside it: `python -m benchmarks` lists them."""
