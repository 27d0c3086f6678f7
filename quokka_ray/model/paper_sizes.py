"""The sizes of the Quokka paper (arXiv 2510.03280, Table 6), as data.

The table's nominal size is 12 * layers * d_model ** 2 in millions, and its feed-forward column is
4 * d_model; the N that the paper plots and fits is the total of what was trained: tied embeddings
once, four attention matrices of d_model by heads * kv_size, a gated feed-forward of width
floor(8 d_model / 3 / 64) * 64, and the norms. `total_millions` is that N as read out of the
paper's figures; a test holds every row against `model/counts.py` with an embedding of 50,304 rows
(GPT-2's vocabulary and the mask, padded). The released 1,086M model has 50,269.
"""

from dataclasses import dataclass

from quokka_ray.study.trajectory import Shape


@dataclass(frozen=True)
class PaperSize:
    """One row of the table.

    Attributes:
        nominal: The name of the row, in millions.
        d_model: Width.
        kv_size: Width of one head.
        heads: Heads.
        layers: Blocks.
        total_millions: N in millions, to 0.1.
    """

    nominal: int
    d_model: int
    kv_size: int
    heads: int
    layers: int
    total_millions: float

    @property
    def shape(self) -> Shape:
        """The row as a shape, its head width its own."""
        return Shape(
            d_model=self.d_model,
            layers=self.layers,
            heads=self.heads,
            ffn=8 * self.d_model // 3 // 64 * 64,
            head_dim=self.kv_size,
        )


PAPER_SIZES = tuple(
    PaperSize(*row)
    for row in (
        (1, 128, 32, 4, 3, 7.0),
        (2, 224, 32, 7, 4, 13.6),
        (5, 288, 32, 7, 5, 19.1),
        (7, 320, 32, 10, 6, 23.4),
        (14, 448, 32, 7, 6, 34.2),
        (25, 512, 64, 8, 8, 50.7),
        (36, 576, 64, 9, 9, 64.8),
        (49, 640, 64, 10, 10, 80.5),
        (64, 640, 64, 10, 13, 95.0),
        (79, 640, 64, 10, 16, 109.6),
        (85, 768, 64, 12, 12, 123.6),
        (106, 768, 64, 12, 15, 144.8),
        (127, 768, 64, 12, 18, 166.1),
        (135, 896, 64, 14, 14, 179.2),
        (154, 896, 64, 14, 16, 198.3),
        (173, 896, 64, 14, 18, 217.5),
        (201, 1024, 64, 16, 16, 250.8),
        (226, 1024, 64, 16, 18, 275.7),
        (252, 1024, 64, 16, 20, 300.6),
        (354, 1280, 128, 10, 18, 416.9),
        (413, 1280, 128, 10, 21, 475.6),
        (428, 1408, 128, 11, 18, 495.9),
        (472, 1280, 128, 10, 24, 534.4),
        (500, 1408, 128, 11, 21, 566.7),
        (538, 1536, 128, 12, 19, 615.3),
        (571, 1408, 128, 11, 24, 637.5),
        (623, 1536, 128, 12, 22, 700.2),
        (708, 1536, 128, 12, 25, 785.1),
        (771, 1792, 128, 14, 20, 856.3),
        (886, 1792, 128, 14, 23, 971.3),
        (1002, 1792, 128, 14, 26, 1086.2),
        (1107, 2048, 128, 16, 22, 1207.5),
        (1250, 2176, 128, 17, 22, 1353.5),
        (1258, 2048, 128, 16, 25, 1358.1),
        (1409, 2048, 128, 16, 28, 1508.8),
        (1420, 2176, 128, 17, 25, 1523.1),
        (1529, 2304, 128, 18, 24, 1644.8),
        (1591, 2176, 128, 17, 28, 1692.7),
        (1784, 2304, 128, 18, 28, 1899.7),
        (2038, 2304, 128, 18, 32, 2154.5),
        (2045, 2560, 128, 20, 26, 2165.1),
        (2359, 2560, 128, 20, 30, 2478.4),
        (2674, 2560, 128, 20, 34, 2791.7),
        (3121, 2688, 128, 21, 36, 3256.8),
        (3426, 2816, 128, 22, 36, 3561.1),
        (3744, 2944, 128, 23, 36, 3879.0),
        (4077, 3072, 128, 24, 36, 4231.6),
        (6166, 3584, 128, 28, 40, 6337.0),
        (8456, 4096, 128, 32, 42, 8640.1),
        (10682, 4352, 128, 32, 47, 10678.9),
        (11211, 4608, 128, 36, 44, 11443.6),
        (11976, 4608, 128, 32, 47, 11764.5),
        (13343, 4864, 128, 32, 47, 12857.0),
        (14653, 4992, 128, 32, 49, 14027.9),
        (14785, 5120, 128, 40, 47, 15027.6),
    )
)
"""Smallest first, in N as in the nominal size."""
