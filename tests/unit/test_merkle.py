"""The tree is that of RFC 9162: Certificate Transparency's vectors, and the RFC's own recursive definitions."""

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from perdure_eventstore.merkle import (
    EMPTY_ROOT,
    CompactRange,
    Inclusion,
    ProofRefused,
    consistency_ranges,
    inclusion_ranges,
    is_consistent,
    leaf_data,
    leaf_hash,
    node_hash,
    range_root,
    root_of_inclusion,
    subtree_root,
    subtrees,
)

LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSIONS = {
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
}
CONSISTENCIES = {
    (1, 8): INCLUSIONS[0, 8],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}


def naive_root(leaves: list[bytes]) -> bytes:
    """RFC 9162, 2.1.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\0" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\1" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def proof(leaves: list[bytes], ranges: list[tuple[int, int]]) -> list[bytes]:
    return [naive_root(leaves[begin:end]) for begin, end in ranges]


def test_the_vectors_of_certificate_transparency() -> None:
    tree = CompactRange()
    assert tree.root == EMPTY_ROOT == bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
    for leaf, root in zip(LEAVES, ROOTS, strict=True):
        tree.append(leaf_hash(leaf))
        assert tree.root.hex() == root
    assert subtree_root([leaf_hash(leaf) for leaf in LEAVES]).hex() == ROOTS[-1]


@pytest.mark.parametrize(("index", "size"), INCLUSIONS)
def test_the_inclusion_proofs_of_certificate_transparency(index: int, size: int) -> None:
    path = [bytes.fromhex(step) for step in INCLUSIONS[index, size]]
    assert proof(LEAVES[:size], inclusion_ranges(index, size)) == path
    assert root_of_inclusion(index, size, leaf_hash(LEAVES[index]), path).hex() == ROOTS[size - 1]


@pytest.mark.parametrize(("old", "new"), CONSISTENCIES)
def test_the_consistency_proofs_of_certificate_transparency(old: int, new: int) -> None:
    path = [bytes.fromhex(step) for step in CONSISTENCIES[old, new]]
    assert proof(LEAVES[:new], consistency_ranges(old, new)) == path
    assert is_consistent(old, new, bytes.fromhex(ROOTS[old - 1]), bytes.fromhex(ROOTS[new - 1]), path)


sizes = st.integers(1, 70)
trees = sizes.map(lambda size: [bytes([n]) for n in range(size)])


@given(trees, st.data())
def test_every_root_is_the_one_of_the_recursive_definition(leaves: list[bytes], data: st.DataObject) -> None:
    tree, kept = CompactRange(), {}
    for index, leaf in enumerate(leaves):
        kept[0, index] = leaf_hash(leaf)
        kept.update({(level, number): root for level, number, root in tree.append_subtree(0, leaf_hash(leaf))})
        assert tree.root == naive_root(leaves[: index + 1])
    assert CompactRange.from_json(tree.as_json()).root == tree.root
    for node, root in kept.items():
        level, number = node
        assert root == naive_root(leaves[number << level : (number + 1) << level])
    size = data.draw(st.integers(1, len(leaves)))
    assert range_root((0, size), kept) == naive_root(leaves[:size])


@given(trees, st.data())
def test_every_leaf_has_its_proof_and_no_other_leaf_has_it(leaves: list[bytes], data: st.DataObject) -> None:
    size, root = len(leaves), naive_root(leaves)
    index = data.draw(st.integers(0, size - 1))
    path = proof(leaves, inclusion_ranges(index, size))
    assert root_of_inclusion(index, size, leaf_hash(leaves[index]), path) == root
    assert root_of_inclusion(index, size, leaf_hash(b"another"), path) != root
    for wrong in (path[:-1], [*path, root]) if path else ([root],):
        with pytest.raises(ProofRefused):
            root_of_inclusion(index, size, leaf_hash(leaves[index]), wrong)
    with pytest.raises(ProofRefused):
        root_of_inclusion(size, size, leaf_hash(leaves[index]), path)


@settings(max_examples=200)
@given(trees, st.data())
def test_a_tree_is_consistent_with_its_beginnings_and_with_no_other_tree(
    leaves: list[bytes], data: st.DataObject
) -> None:
    new = len(leaves)
    old = data.draw(st.integers(1, new))
    path, old_root, new_root = proof(leaves, consistency_ranges(old, new)), naive_root(leaves[:old]), naive_root(leaves)
    assert is_consistent(old, new, old_root, new_root, path)
    forked = [*leaves[: old - 1], b"forked", *leaves[old:]]
    assert not is_consistent(old, new, naive_root(forked[:old]), new_root, path)
    other = proof(forked, consistency_ranges(old, new))
    assert not is_consistent(old, new, old_root, naive_root(forked), other)
    for wrong in (path[:-1], [*path, new_root]) if path else ([new_root],):
        assert not is_consistent(old, new, old_root, new_root, wrong)


@given(sizes)
def test_a_range_is_made_of_complete_subtrees(size: int) -> None:
    covered = [leaf for level, number in subtrees((0, size)) for leaf in range(number << level, (number + 1) << level)]
    assert covered == list(range(size))


def test_what_cannot_be_a_tree_is_refused() -> None:
    with pytest.raises(ValueError, match="1 subtree roots cannot be those of a tree of 3 leaves"):
        CompactRange(3, [EMPTY_ROOT])
    with pytest.raises(ValueError, match="a subtree of 4 leaves cannot begin at leaf 1"):
        CompactRange(1, [EMPTY_ROOT]).append_subtree(2, EMPTY_ROOT)
    with pytest.raises(ValueError, match=r"a complete subtree has 1, 2, 4, 8, … leaves, not 3"):
        subtree_root([EMPTY_ROOT] * 3)


def test_an_event_is_proved_by_its_position_and_its_hash() -> None:
    hashes = [bytes([n]) * 32 for n in range(3)]
    leaves = [leaf_hash(leaf_data(position, hash_)) for position, hash_ in zip((1, 2, 5), hashes, strict=True)]
    proved = Inclusion(5, 2, 3, [node_hash(leaves[0], leaves[1])])
    root = node_hash(node_hash(leaves[0], leaves[1]), leaves[2])
    assert proved.root(hashes[2]) == root
    assert proved.root(hashes[1]) != root
    assert replace(proved, position=4).root(hashes[2]) != root
