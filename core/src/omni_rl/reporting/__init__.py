"""Reports on a run: curves, images from equal noise before and after training, and health figures."""
