import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.evidence.merkle import (
    EMPTY_ROOT,
    Frontier,
    Tree,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)

# The test tree of the certificate-transparency code base: leaves, and the root after each of them.
CT_LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
CT_ROOTS = [
    bytes.fromhex(root)
    for root in (
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    )
]
MOST = 64
LEAVES = [leaf_hash(b"record %d" % number) for number in range(MOST)]
TREE = Tree(LEAVES)


def definition(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word by word."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return node_hash(definition(leaves[:split]), definition(leaves[split:]))


def damaged(path: tuple[bytes, ...]) -> list[tuple[bytes, ...]]:
    """Each way to change one hash of a proof, to leave one out, to add one, and to swap neighbours."""
    wrong: list[tuple[bytes, ...]] = [(*path, bytes(32)), (bytes(32), *path)]
    for place, digest in enumerate(path):
        flipped = bytes([digest[0] ^ 1]) + digest[1:]
        wrong.append((*path[:place], flipped, *path[place + 1 :]))
        wrong.append((*path[:place], *path[place + 1 :]))
    wrong += [(*path[:at], path[at + 1], path[at], *path[at + 2 :]) for at in range(len(path) - 1)]
    return wrong


def test_the_empty_tree_is_the_hash_of_nothing() -> None:
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert Frontier().root() == Tree([]).root(0) == EMPTY_ROOT


def test_roots_are_those_of_certificate_transparency() -> None:
    leaves = [leaf_hash(leaf) for leaf in CT_LEAVES]
    tree = Tree(leaves)
    assert [tree.root(size) for size in range(1, 9)] == CT_ROOTS
    assert [Frontier().extend(leaves[:size]).root() for size in range(1, 9)] == CT_ROOTS


def test_inclusion_is_that_of_certificate_transparency() -> None:
    tree = Tree([leaf_hash(leaf) for leaf in CT_LEAVES])
    assert [digest.hex() for digest in tree.inclusion(5, 8)] == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


def test_consistency_is_that_of_certificate_transparency() -> None:
    tree = Tree([leaf_hash(leaf) for leaf in CT_LEAVES])
    assert [digest.hex() for digest in tree.consistency(6, 8)] == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


@pytest.mark.parametrize("size", range(MOST + 1))
def test_both_views_have_the_root_of_the_definition(size: int) -> None:
    expected = definition(LEAVES[:size])
    assert TREE.root(size) == expected
    assert TREE.frontier(size).root() == expected
    assert Frontier().extend(LEAVES[:size]) == TREE.frontier(size)


@pytest.mark.parametrize("old", range(MOST + 1))
def test_a_frontier_goes_on_from_any_size_to_any_other(old: int) -> None:
    frontier = TREE.frontier(old)
    for size in range(old, MOST + 1):
        assert frontier == TREE.frontier(size)
        if size < MOST:
            frontier = frontier.append(LEAVES[size])


@pytest.mark.parametrize("size", range(1, MOST + 1))
def test_every_leaf_is_proven_and_no_damaged_proof_is(size: int) -> None:
    root = TREE.root(size)
    for index in range(size):
        path = TREE.inclusion(index, size)
        assert verify_inclusion(LEAVES[index], index, size, path, root)
        assert not any(verify_inclusion(LEAVES[index], index, size, wrong, root) for wrong in damaged(path))
        assert not verify_inclusion(LEAVES[index - 1] if index else bytes(32), index, size, path, root)
        assert not verify_inclusion(LEAVES[index], index, size, path, bytes(32))
        assert not verify_inclusion(LEAVES[index], index + 1, size, path, root)


@pytest.mark.parametrize("size", range(1, MOST + 1))
def test_every_prefix_is_proven_and_no_damaged_proof_is(size: int) -> None:
    root = TREE.root(size)
    for old in range(size + 1):
        path, old_root = TREE.consistency(old, size), TREE.root(old)
        assert verify_consistency(old, size, old_root, root, path)
        assert not any(verify_consistency(old, size, old_root, root, wrong) for wrong in damaged(path))
        assert not verify_consistency(old, size, bytes(32), root, path)
        if old:
            assert not verify_consistency(old, size, old_root, bytes(32), path)


def test_a_rewritten_prefix_is_never_consistent() -> None:
    other = Tree([leaf_hash(b"rewritten"), *LEAVES[1:]])
    for old in range(1, MOST):
        path = other.consistency(old, MOST)
        assert not verify_consistency(old, MOST, TREE.root(old), other.root(MOST), path)


@given(data=st.data(), old=st.integers(0, 500), more=st.integers(2, 60))
def test_a_frontier_notices_records_in_another_order(data: st.DataObject, old: int, more: int) -> None:
    leaves = [leaf_hash(b"%d" % number) for number in range(old + more)]
    frontier = Frontier().extend(leaves[:old])
    other = data.draw(st.permutations(leaves[old:]))
    assert (frontier.extend(other).root() == Tree(leaves).root(old + more)) == (other == leaves[old:])


def test_a_leaf_is_never_a_node() -> None:
    left, right = LEAVES[:2]
    assert leaf_hash(left + right) != node_hash(left, right)


@pytest.mark.parametrize(
    ("size", "hashes"), [(1, ()), (0, (bytes(32),)), (3, (bytes(32),)), (1, (bytes(31),)), (-1, ())]
)
def test_a_frontier_that_fits_no_tree_is_refused(size: int, hashes: tuple[bytes, ...]) -> None:
    with pytest.raises(ValueError, match="compact range"):
        Frontier(size, hashes)


def test_nothing_is_proven_beyond_the_leaves() -> None:
    for call in (
        lambda: TREE.root(MOST + 1),
        lambda: TREE.frontier(MOST + 1),
        lambda: TREE.inclusion(3, 3),
        lambda: TREE.inclusion(0, MOST + 1),
        lambda: TREE.inclusion(-1, 3),
        lambda: TREE.consistency(4, 3),
        lambda: TREE.consistency(1, MOST + 1),
    ):
        with pytest.raises(ValueError, match="leaves"):
            call()


def test_verifiers_refuse_ranges_that_cannot_be() -> None:
    assert not verify_inclusion(LEAVES[0], 0, 0, (), EMPTY_ROOT)
    assert not verify_inclusion(LEAVES[0], -1, 1, (), LEAVES[0])
    assert not verify_consistency(2, 1, TREE.root(2), TREE.root(1), ())
    assert not verify_consistency(3, 5, TREE.root(3), TREE.root(5), ())
    assert not verify_consistency(-1, 1, EMPTY_ROOT, TREE.root(1), ())
