"""Experiment trackers for omni-rl, one module per tracker: TensorBoard, Weights & Biases, SwanLab, MLflow."""
