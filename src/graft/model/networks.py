"""graft's own small networks. The last child of each is its classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graft.errors import GraftError


class ConvBlock(nn.Module):
    """Convolution 3x3, batch normalisation, ReLU, and max-pooling by 2 where asked for."""

    def __init__(self, channels_in: int, channels_out: int, pool: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)
        self.activation = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, C', H, W)``, or to half the side."""
        pooled: Tensor = self.pool(self.activation(self.norm(self.conv(x))))
        return pooled


class SmallCNN(nn.Module):
    """Five convolution blocks and a global average: 84,000 parameters for images of 8 to 64 px."""

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        widths = (channels, 16, 32, 48, 64, 64)
        pools = (True, False, True, False, False)
        self.features = nn.Sequential(
            *(ConvBlock(widths[index], widths[index + 1], pool) for index, pool in enumerate(pools))
        )
        self.fc = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(N, C, H, W)`` to scores ``(N, classes)``."""
        scores: Tensor = self.fc(self.features(x).mean(dim=(2, 3)))
        return scores


class CNN2(nn.Module):
    """The tutorial's network: two 3x3 convolutions with max-pooling, a layer of 128, a classifier."""

    def __init__(self, num_classes: int, channels: int, image_size: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 32, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.hidden = nn.Linear(64 * (image_size // 4) ** 2, 128)
        self.fc = nn.Linear(128, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(N, C, H, W)`` to scores ``(N, classes)``."""
        x = self.pool(torch.relu(self.conv1(x)))
        x = self.pool(torch.relu(self.conv2(x)))
        scores: Tensor = self.fc(torch.relu(self.hidden(x.flatten(1))))
        return scores


class RowNet(nn.Module):
    """A recurrent network that reads an image row by row, as a sequence of H vectors of W times C values.

    Args:
        kind: `torch.nn.RNN`, `torch.nn.LSTM` or `torch.nn.GRU`.
        num_classes: Scores to return.
        row_values: Values in a row: width times channels.
        hidden_size: Width of the hidden state.
        layers: Recurrences stacked, each a module of its own, so that the network can be cut between them.
    """

    def __init__(
        self,
        kind: type[nn.RNN] | type[nn.LSTM] | type[nn.GRU],
        num_classes: int,
        row_values: int,
        hidden_size: int,
        layers: int,
    ) -> None:
        super().__init__()
        widths = [row_values] + [hidden_size] * (layers - 1)
        self.rows = nn.ModuleList(kind(width, hidden_size, batch_first=True) for width in widths)
        self.fc = nn.Linear(hidden_size, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(N, C, H, W)`` to scores ``(N, classes)``, read from the last hidden state."""
        x = x.permute(0, 2, 3, 1).flatten(2)
        for recurrence in self.rows:
            x = recurrence(x)[0]
        scores: Tensor = self.fc(x[:, -1])
        return scores


def build_small_cnn(
    num_classes: int, image_size: int, channels: int, hidden_size: int, layers: int
) -> nn.Module:
    """Build `SmallCNN`."""
    require_side("small_cnn", image_size, 4)
    return SmallCNN(num_classes, channels)


def build_cnn2(num_classes: int, image_size: int, channels: int, hidden_size: int, layers: int) -> nn.Module:
    """Build `CNN2`; its layer of 128 fits one image size."""
    require_side("cnn2", image_size, 4)
    return CNN2(num_classes, channels, image_size)


def build_row_rnn(
    num_classes: int, image_size: int, channels: int, hidden_size: int, layers: int
) -> nn.Module:
    """Build a `RowNet` of plain recurrences."""
    return RowNet(nn.RNN, num_classes, image_size * channels, hidden_size, layers)


def build_row_lstm(
    num_classes: int, image_size: int, channels: int, hidden_size: int, layers: int
) -> nn.Module:
    """Build a `RowNet` of LSTM layers."""
    return RowNet(nn.LSTM, num_classes, image_size * channels, hidden_size, layers)


def build_row_gru(
    num_classes: int, image_size: int, channels: int, hidden_size: int, layers: int
) -> nn.Module:
    """Build a `RowNet` of GRU layers."""
    return RowNet(nn.GRU, num_classes, image_size * channels, hidden_size, layers)


def require_side(name: str, image_size: int, smallest: int) -> None:
    """Refuse images that pooling would make vanish.

    Raises:
        GraftError: ``image_size`` is below ``smallest``.
    """
    if image_size < smallest:
        raise GraftError(
            f"Expected images of at least {smallest} px for `backbone.name={name}`, but got {image_size} "
            f"px. Give `data.image_size={smallest}` or more."
        )


OWN_BUILDERS = {
    "small_cnn": build_small_cnn,
    "cnn2": build_cnn2,
    "row_rnn": build_row_rnn,
    "row_lstm": build_row_lstm,
    "row_gru": build_row_gru,
}
