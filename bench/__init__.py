"""Benchmarks: `make bench` runs them; they measure and print, and judge nothing."""
