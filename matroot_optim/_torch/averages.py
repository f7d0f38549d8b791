"""The averages of the weights of an optimizer, and their use in the place of the parameters."""

from __future__ import annotations

from typing import Any

import torch

from matroot_optim._torch.keeper import Keeper, parameters
from matroot_optim.state import State


class Averages:
    """The methods of an optimizer that keeps averages."""

    param_groups: list[dict[str, Any]]
    _keeper: Keeper
    _training: tuple[tuple[Any, Any], ...] = ()  # parameters, and copies of them from before `eval`

    def _current(self) -> State:
        raise NotImplementedError

    def averaged_parameters(self) -> list[torch.Tensor]:
        """Return the averages of all parameters, in the order of the groups; without averaging, copies of them.

        Examples
        --------
        >>> import torch
        >>> from matroot_optim.torch import Shampoo
        >>> W = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = Shampoo([W], lr=0.1, averaging="ema", averaging_beta=0.9)
        >>> for _ in range(2):
        ...     W.grad = torch.ones(2)
        ...     optimizer.step()
        >>> optimizer.averaged_parameters()[0]
        tensor([-0.1100, -0.1100])
        """
        self.refuse_averages("averaged_parameters()")
        self._current()
        return self._keeper.averages_of(parameters(self.param_groups))

    def eval(self) -> None:
        """Put the averages into the parameters, to evaluate or save the model, until `train` is called."""
        if self._training:
            return
        averages, params = self.averaged_parameters(), parameters(self.param_groups).values()
        self._training = tuple((p, p.detach().clone()) for p in params)
        with torch.no_grad():
            for p, x in zip(params, averages, strict=True):
                p.copy_(x)

    def train(self) -> None:
        """Put the parameters of the training back, to the bit."""
        with torch.no_grad():
            for p, x in self._training:
                p.copy_(x)
        self._training = ()

    def refuse_averages(self, what: str) -> None:
        """Raise if the averages are in the parameters.

        Raises
        ------
        RuntimeError
        """
        if self._training:
            raise RuntimeError(f"{what} needs the parameters of the training: call train() first, after eval()")
