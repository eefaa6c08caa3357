from omni_rl.model.loading import pick_device as pick_device
