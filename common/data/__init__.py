"""The shared data layer: readers of the original layouts, the store, the data module, procedural stand-ins."""
