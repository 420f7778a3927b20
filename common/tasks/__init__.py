"""What `python run.py task=...` does, a function a task; knows neither Hydra nor any paper."""
