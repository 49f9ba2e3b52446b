"""The forest of shared prefixes, against the sequences that it was grown from."""

from hypothesis import given
from hypothesis import strategies as st

from rubrica.judges.forest import MIN_SHARED, Branch, Group, grow, passes

PREFIXES = st.lists(
    st.builds(
        lambda *stretches: sum(stretches, ()),
        *[st.sampled_from([(), (1,) * 20, (2,) * 30, (1,) * 3, (3,) * 16])] * 4,
    ),
    min_size=1,
    max_size=8,
    unique=True,
)


def walk(nodes):
    for node in nodes:
        yield node
        yield from walk(node.children)


def groups_of(prefixes):
    return [
        Group(prefix, [Branch((7, 8, n), ((9,),)) for n in range(3)], range(3 * at, 3 * at + 3))
        for at, prefix in enumerate(prefixes)
    ]


@given(PREFIXES)
def test_a_path_through_the_forest_spells_the_prefix_of_every_question(prefixes):
    found = {}
    for node in walk(grow(groups_of(prefixes))):
        spelt = sum((above.ids for above in node.path), ())
        assert node.end == len(spelt)
        found |= {owner: spelt for _, owner in node.leaves}
    assert found == {3 * at + n: prefix for at, prefix in enumerate(prefixes) for n in range(3)}


@given(PREFIXES)
def test_no_two_siblings_begin_alike_for_long_and_the_least_sharing_is_a_trie(prefixes):
    roots = grow(groups_of(prefixes))
    siblings = [roots, *(node.children for node in walk(roots))]
    for nodes in siblings:
        for a in nodes:
            assert all(
                a is b or a.ids[:MIN_SHARED] != b.ids[:MIN_SHARED] or len(a.ids) < MIN_SHARED for b in nodes
            )
    tokens = sum(len(node.ids) for node in walk(roots))
    trie = {prefix[:end] for prefix in prefixes for end in range(1, len(prefix) + 1)}
    assert len(trie) <= tokens <= len(trie) + (MIN_SHARED - 1) * 2 * len(prefixes)


@given(PREFIXES, st.integers(1, 80))
def test_passes_hold_everything_once_and_parents_before_what_hangs_on_them(prefixes, limit):
    roots = grow(groups_of(prefixes))
    seen, owners = set(), []
    for work in passes(roots, limit):
        sizes = [len(node.ids) for node in work.nodes] + [len(b.packed.ids) for _, b, _ in work.leaves]
        assert work.tokens == sum(sizes)
        assert work.tokens <= limit or sum(size > 0 for size in sizes) == 1
        for node in work.nodes:
            assert node not in seen and (node.parent is None or node.parent in seen)
            seen.add(node)
        assert all(node in seen for node, _, _ in work.leaves)
        owners += [owner for _, _, owner in work.leaves]
    assert seen == set(walk(roots))
    assert sorted(owners) == list(range(3 * len(prefixes)))
