from omni_rl.parallel.group import world_size as world_size
from omni_rl.parallel.whole import own_part as own_part
from omni_rl.parallel.whole import part_of as part_of
from omni_rl.parallel.whole import whole as whole
from omni_rl.training.backend import TorchBackend as TorchBackend
