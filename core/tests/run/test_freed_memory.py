import psutil
import pytest
import torch

from omni_rl.run import freed_memory


@pytest.mark.skipif(freed_memory._trim() is None, reason="the C library has no malloc_trim")
def test_freed_pages_go_back_to_the_system():
    kept = [torch.ones(16_000) for _ in range(2_000)]  # 64 kB each, below the size that glibc maps by itself
    last = torch.ones(16_000)  # the end of the heap stays in use
    del kept
    before = psutil.Process().memory_info().rss
    freed_memory.give_back()
    assert psutil.Process().memory_info().rss < before - 50e6
    assert last.sum() == 16_000
