"""Shampoo in torch: a network on optical digits, with a schedule, a parameter group and a checkpoint."""

import io

import torch

from matroot import demo_network as network
from matroot_optim.torch import Shampoo


def main(steps: int = 300) -> float:
    """Train, and return the accuracy on held-out digits."""
    torch.manual_seed(0)
    train, test = (
        (torch.from_numpy(part.images).float(), torch.from_numpy(part.labels))
        for part in network.load_digits().split(1437)
    )
    model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    groups = [{"params": [p for p in model.parameters() if p.ndim > 1]}, {"params": biases, "weight_decay": 0.0}]
    optimizer = Shampoo(groups, lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(train[1]), (128,))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(train[0][rows]), train[1][rows]).backward()
        optimizer.step()
        schedule.step()
    print(optimizer.diagnostics())
    torch.save(optimizer.state_dict(), file := io.BytesIO())
    optimizer.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    return (model(test[0]).argmax(dim=1) == test[1]).double().mean().item()


if __name__ == "__main__":
    print(f"accuracy on held-out digits: {main():.3f}")
