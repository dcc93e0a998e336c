"""Anatomies made by hand: no model and no walker."""

from __future__ import annotations

from surgery.anatomy.site import Anatomy, Layer, RowRange, Site

Q, K, V, QKV = "attention.q", "attention.k", "attention.v", "attention.qkv"
DENSE = ("Linear", "Module")


def weight(path: str, *roles: str, layer: Layer | None = None, tower: str | None = None) -> Site:
    return Site(
        path, (path,), f"{path}.weight", DENSE, frozenset(roles), layer=layer, tower=tower,
        shape=(8, 8), in_axis=1, evidence="trace",
    )  # fmt: skip


def layers(container: str, count: int, tower: str) -> list[Site]:
    """Blocks with q, k, v and an up projection each."""
    found = []
    for number in range(count):
        layer, path = Layer(number, container, count), f"{container}.{number}"
        found.append(
            Site(path, (path,), None, ("Block",), frozenset(["layer"]), layer=layer, tower=tower)
        )
        for leaf, role in (("q_proj", Q), ("k_proj", K), ("v_proj", V)):
            found.append(weight(f"{path}.attn.{leaf}", role, layer=layer, tower=tower))
        found.append(weight(f"{path}.up", "mlp.up", layer=layer, tower=tower))
    return found


def fused(path: str, layer: Layer | None = None) -> Site:
    rows: dict[str, tuple[RowRange, ...]] = {V: ((4, 8),), Q: ((0, 2), (10, 12)), K: ((2, 4),)}
    return Site(
        path, (path,), f"{path}.weight", ("Conv1D", "Module"), frozenset([Q, K, V, QKV]), rows,
        layer, "text", (8, 12), 1, 0, "trace",
    )  # fmt: skip


def two_towers() -> Anatomy:
    """Twelve text layers, four vision layers, and a head that has two names."""
    embedding = Site(
        "text.embed", ("text.embed", "head"), "text.embed.weight", ("Embedding", "Module"),
        frozenset(["embedding", "head"]), tower="text", shape=(100, 8), evidence="trace",
    )  # fmt: skip
    bias = Site("scale", ("scale",), "scale", ("Parameter",), shape=(8,))
    model = Site("", ("",), None, ("TwoTowers", "PreTrainedModel", "Module"))
    blocks = [*layers("text.layers", 12, "text"), *layers("vision.blocks", 4, "vision")]
    return Anatomy((model, embedding, *blocks, bias), traced=True)


def fused_model() -> Anatomy:
    sites = [fused(f"h.{n}.qkv", Layer(n, "h", 3)) for n in range(3)]
    return Anatomy((*sites, weight("out", "head")), traced=True)
