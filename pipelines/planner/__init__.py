"""Sizes a model for a machine before anything is downloaded: memory, layout, settings, an upper bound of speed.

Pure arithmetic over three tables: architectures.toml, gpus.toml, engines.toml. Bytes are bytes, memory of tables is
MiB, bandwidth GB/s. `docs/concepts/sizing.md` has the formulas with their sources and how far each was checked.
"""
