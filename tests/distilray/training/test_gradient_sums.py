"""What workers add up, they add up in the same way in every step."""

import subprocess
import sys

# Three processes, since a + b has the same bits in both orders. The parameters get their gradients in another order
# than they stand in the module, by which DDP would make its buckets anew.
SCRIPT = """
import sys
import torch
from torch import distributed, nn
from distilray.training.process_group import Workers

class Crossed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(size, size) for size in (7, 7, 7, 7))

    def forward(self, x):
        for index in (2, 0, 3, 1):
            x = self.layers[index](x).tanh()
        return x.square().sum()

def run(rank, address):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=3)
    torch.manual_seed(1)
    module = Workers.from_process_group().wrap(Crossed(), torch.device("cpu"))
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(rank))
    steps = []
    for _ in range(3):
        module.zero_grad()
        module(x).backward()
        steps.append(torch.cat([each.grad.flatten() for each in module.parameters()]).clone())
    assert all(torch.equal(step, steps[0]) for step in steps), "a later step has other bits"

if __name__ == "__main__":
    torch.multiprocessing.start_processes(run, (sys.argv[1],), nprocs=3, start_method="fork")
"""


def test_equal_gradients_of_three_workers_have_an_equal_sum_in_every_step(tmp_path, root):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, f"file://{tmp_path}/meeting"],
        env={"PYTHONPATH": str(root / "platform"), "PATH": "", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
