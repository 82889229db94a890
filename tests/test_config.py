"""Settings: there and back, strictly, with help for misspelt names."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frugan.config import ConfigError, counted, differences, from_dict, override, override_all, some, suggest, to_dict
from frugan.recipes import RECIPES
from frugan.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Square:
    side: float


@dataclass(frozen=True, kw_only=True)
class Circle:
    radius: float = 1.0
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class Drawing:
    title: str
    shape: Square | Circle
    frame: Square | None = None
    sizes: tuple[int, ...] = ()
    inks: dict[str, Circle] = field(default_factory=dict)
    is_signed: bool = False


def drawings() -> st.SearchStrategy[Drawing]:
    numbers = st.floats(allow_nan=False, allow_infinity=False)
    squares = st.builds(Square, side=numbers)
    circles = st.builds(Circle, radius=numbers, name=st.none() | st.text())
    return st.builds(
        Drawing,
        title=st.text(),
        shape=squares | circles,
        frame=st.none() | squares,
        sizes=st.lists(st.integers()).map(tuple),
        inks=st.dictionaries(st.text(), circles),
        is_signed=st.booleans(),
    )


@given(drawings())
def test_plain_data_comes_back_equal(drawing: Drawing) -> None:
    assert from_dict(Drawing, to_dict(drawing)) == drawing


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_comes_back_equal(name: str) -> None:
    recipe = RECIPES[name]()
    assert from_dict(Recipe, to_dict(recipe)) == recipe
    assert differences(recipe, recipe) == []


def test_a_member_of_a_union_carries_its_kind() -> None:
    assert to_dict(Drawing(title="a", shape=Circle()))["shape"]["kind"] == "Circle"
    assert "kind" not in to_dict(Drawing(title="a", shape=Circle(), frame=Square(side=1.0)))["frame"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"title": "a", "shape": {"kind": "Circle", "radios": 1.0}}, "did you mean 'radius'"),
        ({"title": "a"}, "needs shape"),
        ({"title": 3, "shape": {"kind": "Circle"}}, "title must be text, got 3"),
        ({"title": "a", "shape": {"kind": "Cirkle"}}, "shape.kind must name one of Square, Circle"),
        ({"title": "a", "shape": {"kind": "Square", "side": "long"}}, "shape.side must be a finite number"),
        ({"title": "a", "shape": {"kind": "Square", "side": float("inf")}}, "shape.side"),
        ({"title": "a", "shape": {"kind": "Circle"}, "sizes": [1, 2.5]}, r"sizes\[1\] must be a whole number"),
        ({"title": "a", "shape": {"kind": "Circle"}, "is_signed": 1}, "true or false"),
        ([1], "must be a table"),
    ],
)
def test_what_does_not_fit_is_named(data: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(Drawing, data)  # type: ignore[arg-type]


def test_override_reaches_inside() -> None:
    drawing = Drawing(title="a", shape=Circle(), inks={"red": Circle()})
    assert override(drawing, "shape.radius", "2.5").shape == Circle(radius=2.5)
    assert override(drawing, "inks.red.name", "vermilion").inks["red"].name == "vermilion"
    assert override(drawing, "sizes", "[1, 2]").sizes == (1, 2)
    assert override(drawing, "frame", '{"side": 3}').frame == Square(side=3.0)
    assert override(override(drawing, "frame", '{"side": 3}'), "frame", "null").frame is None
    assert override(drawing, "shape", '{"kind": "Square", "side": 1}').shape == Square(side=1.0)
    assert override(drawing, "title", "17").title == "17"
    assert drawing == Drawing(title="a", shape=Circle(), inks={"red": Circle()})


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("shap.radius", "1", "did you mean 'shape'"),
        ("shape.radius", "wide", "finite number"),
        ("frame.side", "1", "'frame' is None and has no setting 'side'; give 'frame' whole, as JSON"),
        ("frame", "{side: 1}", "frame: a table or list is written as JSON, with names and text in double quotes"),
        ("sizes", "[1; 2]", "sizes: a table or list is written as JSON"),
        ("inks.rd.radius", "1", "did you mean 'red'"),
        ("title.length", "1", "has no setting 'length'"),
    ],
)
def test_override_refuses(path: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(Drawing(title="a", shape=Circle(), inks={"red": Circle()}), path, value)


@dataclass(frozen=True, kw_only=True)
class Pair:
    left: Circle
    right: Circle

    def __post_init__(self) -> None:
        if self.left.radius != self.right.radius:
            raise ValueError("both circles must be alike")


def test_settings_that_only_fit_together_are_changed_together() -> None:
    pair = Pair(left=Circle(), right=Circle())
    with pytest.raises(ValueError, match="alike"):
        override(pair, "left.radius", "2")
    both = override_all(pair, [("left.radius", "2"), ("right", '{"radius": 3}'), ("right.radius", "2")])
    assert both == Pair(left=Circle(radius=2.0), right=Circle(radius=2.0))
    drawing = Drawing(title="a", shape=Circle(), inks={"red": Circle(), "blue": Circle()})
    inks = [("inks.red.radius", "7"), ("inks.blue.name", "navy"), ("inks.red.radius", "2"), ("inks.red.name", "ruby")]
    assert override_all(drawing, inks).inks == {"red": Circle(radius=2.0, name="ruby"), "blue": Circle(name="navy")}
    whole = [("inks.red.radius", "7"), ("inks.red", '{"name": "ruby"}')]
    assert override_all(drawing, whole).inks["red"] == Circle(name="ruby"), "the last value counts"
    assert override_all(drawing, []) == drawing


def test_names_in_words() -> None:
    assert suggest("smal", ["small", "large"]) == "; did you mean 'small'?"
    assert suggest("x", ["small", "large"]) == "; known: large, small"
    assert suggest("x", []) == ""
    many = [f"c{number:04d}" for number in range(1200)]
    assert suggest("x", many, most=2) == "; known: 'c0000', 'c0001' and 1,198 more"
    assert some(["a", "it's"]) == "'a', \"it's\"" and some([]) == "" and some(["a", "b"], most=1) == "'a' and 1 more"


def test_one_and_many() -> None:
    assert [counted(number, "picture") for number in (0, 1, 1200)] == ["0 pictures", "1 picture", "1,200 pictures"]
    assert [counted(number, "class", "has") for number in (1, 2)] == ["1 class has", "2 classes have"]
    assert [counted(number, "picture", "is") for number in (1, 2)] == ["1 picture is", "2 pictures are"]
    assert [counted(number, "picture", "lies") for number in (1, 2)] == ["1 picture lies", "2 pictures lie"]


def test_differences() -> None:
    first = Drawing(title="a", shape=Circle())
    second = override(override(first, "title", "b"), "shape.radius", "2")
    assert differences(first, second) == [("title", "a", "b"), ("shape.radius", 1.0, 2.0)]
