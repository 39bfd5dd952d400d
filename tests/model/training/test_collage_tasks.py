"""On a collage, a text is asked only where it is about one image alone; and it is known which."""

from model.evaluation.data import ImageRef
from model.training.collage_tasks import CollageMaker, CollagePool, collage_image
from model.training.tasks import Example

NOUNS = frozenset({"dog", "boat", "horse", "car", "man", "woman"})


def pool(texts: dict[str, list[Example]]) -> CollagePool:
    images = [
        collage_image(ImageRef("toy.tar", name), examples, [name, *(one.text for one in examples)], NOUNS)
        for name, examples in texts.items()
    ]
    return CollagePool(images, NOUNS)


def test_a_text_is_about_the_image_that_it_is_given_to() -> None:
    maker = CollageMaker(
        [
            pool(
                {
                    noun: [Example(f"What color is the {noun}?", {"red": 1.0})]
                    for noun in ("dog", "boat", "horse", "car")
                }
            )
        ]
    )
    places = set()
    collages = maker.make(40, 0)
    assert len(collages) == 40
    assert collages == maker.make(40, 0), "always the same"
    for collage in collages:
        assert len(collage.refs) == 4
        for example, place in collage.texts:
            assert collage.refs[place].name in example.text
            places.add(place)
    assert places == {0, 1, 2, 3}


def test_what_two_images_may_have_is_not_asked() -> None:
    """A woman is no man, but whoever wrote of a man in one image may have meant her in the other."""
    asked = {
        "dog": [Example("What color is the dog?", {})],
        "dogs": [Example("Are the dogs brown?", {"yes": 1.0})],
        "man": [Example("What is the man doing?", {"eating": 1.0})],
        "woman": [Example("What is the woman doing?", {"eating": 1.0})],
    }
    assert CollageMaker([pool(asked)]).make(3, 0) == []


def test_nothing_that_is_denied_is_pointed_at() -> None:
    image = collage_image(
        ImageRef("toy.tar", "a"),
        [Example("Is there a boat?", {"no": 1.0}), Example("Is there a dog?", {"yes": 1.0})],
        ["a dog on a boat"],
        NOUNS,
    )
    texts = {example.text for example in image.examples}
    assert "Is there a boat?" not in texts
    assert {"Is there a dog?", "Where is the dog?", "Where is the boat?"} <= texts
    assert all(not example.targets for example in image.examples), "a collage never teaches yes"


def test_too_few_images_make_no_collage() -> None:
    assert CollageMaker([pool({"dog": []})]).make(3, 0) == []
