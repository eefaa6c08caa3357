from omni_rl._version import __version__ as __version__
from omni_rl.contracts.hooks import hookimpl as hookimpl
from omni_rl.run.start import Run as Run
from omni_rl.run.start import check as check
from omni_rl.run.start import resume as resume
from omni_rl.run.start import train as train
