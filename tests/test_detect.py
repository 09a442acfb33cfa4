"""Which competition is it? Told by what the data shows, and honest about what would look alike."""

import pytest

from facever.competition import PROFILES
from facever.detect import Facts, detect


@pytest.mark.parametrize(
    ("facts", "name", "said"),
    [
        (Facts("hw2p2", test_pairs=6000), "S25", "6,000 test pairs; F25 would look alike"),
        (Facts("hw2p2", test_pairs=5000), "S26", "5,000 test pairs; F26 would look alike"),
        (Facts("hw2p2", test_pairs=40), "S25", "F25, S26, F26 would look alike"),
        (Facts("hw2p2", folders=True), "F24", "hw2p2 with a folder per identity"),
        (Facts("hw2p2", names=["11785-face-verification-fall-2025"]), "F25", "fall-2025"),
        (Facts("hw2p2", names=["hw2p2_s26"], test_pairs=6000), "S26", "hw2p2_s26"),
        (Facts("hw2p2", sample=("ID", "Class", "Score")), "F26", "ID,Class,Score"),
        (Facts("hw2p2", test_pairs=5000, sample=("ID", "Label")), "S26", "ID,Label"),
        (Facts("f22"), "F22", "the layout f22"),
        (Facts("s22"), "S22", "the layout s22"),
        (Facts("f20", names=["11-785-s21-hw2p2"]), "F20", "the layout f20"),
        (Facts("rfiw"), "RFIW", "the layout rfiw"),
        (Facts("folders", pair_files=["trials_test_new.txt"]), "S19", "the layout folders"),
    ],
)  # fmt: skip
def test_a_competition_is_told_by_its_data(facts, name, said):
    found = detect(facts)
    assert found.rules.name == name
    assert found.why.startswith("detected from")
    assert said in found.why


@pytest.mark.parametrize("layout", ["tree", "lfw", "csv", "folders"])
def test_data_of_no_competition_gets_the_default_and_says_so(layout):
    found = detect(Facts(layout, test_pairs=6000, names=["f24"]))
    assert found.rules.name == "S25"
    assert found.why.startswith("by default")


def test_what_would_look_alike_is_named_and_how_to_choose_it():
    assert "data.competition=F25" in detect(Facts("hw2p2", test_pairs=6000)).why
    assert "alike" not in detect(Facts("hw2p2", test_pairs=5000, sample=("ID", "Label"))).why


@pytest.mark.parametrize("name", ["s25x", "ss26", "f2", "part2s1", "pass26", "2s25", "f255"])
def test_a_term_is_a_word_of_its_own(name):
    assert detect(Facts("hw2p2", test_pairs=40, names=[name])).why.count("name") == 0


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_is_found_by_its_own_facts(name):
    rules = PROFILES[name]
    facts = Facts(
        rules.layout,
        folders=bool(rules.folders),
        test_pairs=rules.test_pairs or 0,
        pair_files=[rules.pair_file],
        sample=("id", "class", "score") if rules.task == "both" else rules.header,
        names=rules.terms[:1],
    )
    assert detect(facts).rules is rules
