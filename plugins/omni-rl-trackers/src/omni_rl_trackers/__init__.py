"""Experiment trackers for omni-rl, one module each: TensorBoard, Weights & Biases, SwanLab, MLflow."""
