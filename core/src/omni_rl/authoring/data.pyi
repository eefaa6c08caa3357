from omni_rl.contracts.prompts import PromptRow as PromptRow
from omni_rl.data.file_check import check_images as check_images
from omni_rl.data.images import load_image as load_image
from omni_rl.data.media_files import load as load
from omni_rl.data.prompts import numbered_lines as numbered_lines
from omni_rl.data.prompts import placed_rows as placed_rows
from omni_rl.storage.durable import write_atomic as write_atomic
