import re

import pytest

from deeplab_tf.data import class_lists
from deeplab_tf.data.class_lists import LabelClass, default_color, read_class_list
from deeplab_tf.messages import UserError

GROUND, CAR = LabelClass("ground", (1, 2, 3)), LabelClass("my car", (9, 8, 7))
PLAIN = LabelClass("ground", (0, 0, 0)), LabelClass("my car", (128, 0, 0))
CVAT = "# label:color_rgb:parts:actions\nground:1,2,3::\nmy car:9,8,7:wheel,door:turn\n"


def with_ids(*label_ids):
    return tuple(
        LabelClass(own.name, own.color, ids)
        for own, ids in zip((GROUND, CAR), label_ids, strict=True)
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name,r,g,b\nground,1,2,3\nmy car,9,8,7\n", (GROUND, CAR)),
        ("index,name,r,g,b\n0,ground,1,2,3\n1,my car,9,8,7\n", (GROUND, CAR)),
        ("\ufeffName;R;G;B\r\nground;1;2;3\r\nmy car;9;8;7\r\n", (GROUND, CAR)),
        ("NAME\tR\tG\tB\nground\t1\t2\t3\nmy car\t9\t8\t7\n", (GROUND, CAR)),
        ('b, g, r, "name",\n3, 2, 1, ground,\n7, 8, 9, "my car",\n', (GROUND, CAR)),
        (
            "name,r,g,b,label_id\nground,1,2,3,7;8\nmy car,9,8,7,255\n",
            with_ids((7, 8), (255,)),
        ),
        ("name;r;g;b;label_id\nground;1;2;3;7 8\nmy car;9;8;7;0\n", with_ids((7, 8), (0,))),
        ('name,r,g,b,label_id\nground,1,2,3,"7,8"\nmy car,9,8,7,0\n', with_ids((7, 8), (0,))),
        ("name,r,g,b,label_id\nground,1,2,3,\nmy car,9,8,7,\n", (GROUND, CAR)),
        ("name,label_id\n,\nground,7\n;\nmy car,8\n,\n", None),  # a spreadsheet's empty lines
        (CVAT, (GROUND, CAR)),
        (CVAT.removeprefix("# "), (GROUND, CAR)),
        ("ground\n\n# none\n  my car  \n", PLAIN),
        ("__ignore__\nground\nmy car\n", PLAIN),  # labelme's labels.txt
        ("name\nground\nmy car\n", PLAIN),
        ("name,label_id\nground,0\nmy car,255\n", None),
        ("ground:::\nmy car:::\n", PLAIN),
        ('"name"\n"ground"\n"my car"\n', PLAIN),  # as a CSV writer that quotes everything has it
        ("'ground'\n'my car'\n", PLAIN),
        ("name\n'ground'\n'my car'\n", PLAIN),
        ("__ignore__\n'ground'\n'my car'\n", PLAIN),
        ("'__ignore__'\n'ground'\n'my car'\n", PLAIN),
        ('"__ignore__"\n"ground"\n"my car"\n', PLAIN),
        ("'name'\nground\nmy car\n", PLAIN),
        ("name\n__ignore__\nground\nmy car\n", PLAIN),
        ("__ignore__\nname\nground\nmy car\n", PLAIN),
        ("\ufeff\ufeffname\n\ufeffground\u200b\nmy car\n", PLAIN),  # files joined by cat
    ],
)
def test_class_lists_are_read_in_all_their_forms(tmp_path, text, expected):
    (tmp_path / "c.txt").write_text(text, newline="")
    found = read_class_list(tmp_path / "c.txt")
    if expected is None:
        values = [int(text) for text in re.findall(r"\d+", text)]
        assert [own.label_ids for own in found.classes] == [(value,) for value in values]
        assert not found.has_colors
        return
    assert found.classes == expected
    assert found.has_colors == (expected is not PLAIN)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,r,g\na,1,2\n", "no column b in its first line; a class list holds names"),
        ("a,1,2,3\nb,1,2,4\n", "'a,1,2,3', has no column called 'name'; put a .* as name,r,g,b or"),
        ("name,r,g,b,value\na,1,2,3,7\n", "the column 'value', which is unknown or named twice"),
        ("name,r,g,b,name\na,1,2,3,c\n", "the column 'name', which is unknown or named twice"),
        ("name,r,g,b\na,1,2,3\na,1,2,4\n", "names 'a' twice; give a class one line"),
        ("name,r,g,b\na,1,2,3\nb,1,2,300\n", "Line 3 .*0..255"),
        ("name,r,g,b\na,1,2,3\n,1,2,3\n", "Line 3 .* needs a name"),
        (f"a\n{'b' * 401}\n", "Line 2 .* gives a name that is longer than 400 characters"),
        ("name,r,g,b\na,1,2,3\nb,1,2,3,4\n", "Line 3 .* does not have 4 columns"),
        ("name,r,g,b\na,1,2,3\nb,1,2\n", "Line 3 .* does not have 4 columns"),
        ("name,r,g,b\na,1,2,3\nb,1,2,x\n", "Line 3 .* has 'x' in the column b; .* 9 digits"),
        ("name,r,g,b\na,1,2,3\nb,1,,3\n", "Line 3 .* has nothing in the column g; it must hold"),
        ("name,label_id\na,7.0\nb,8\n", "Line 2 .* has '7.0' in the column label_id; .* as 7;8"),
        ("name,label_id\na,0\nb,7-8\n", "Line 3 .* has '7-8' in the column label_id; .* as 7;8"),
        ("index,name\nx,a\n1,b\n", "Line 2 .* has 'x' in the column index"),
        ("name,r,g,b\na,1,2,3\nb,,,\n", "Line 3 .* gives 'b' no colour, but other lines"),
        ("name,r,g,b\na,1,2,3\n", "holds only one class, 'a'; at least two are needed"),
        ("name\n", "holds 0 classes"),
        ("\n".join(f"class {i}" for i in range(256)), "holds 256 classes"),
        ("index,name,r,g,b\n0,a,1,2,3\n2,b,1,2,4\n", "count up from 0.*column label_id"),
        ("name,label_id\na,7;8\nb,8\n", "Line 3 .* has the label_id 8, which 'a' has too"),
        ("name,label_id\na,-1\nb,8\n", "Line 2 .* has the label_id -1, which is below 0"),
        ("name,label_id\na,7\nb,\n", "Line 3 .* gives 'b' no label_id, but other lines"),
        ("a:1,2,3::\nb:1,2\n", "Line 2 .* is 'b:1,2', not name:r,g,b:: as in CVAT's"),
        ("a\nb,1,2,3\n", "Line 2 .* has a ',' in 'b,1,2,3', but the first line has none"),
        ("0 a\n1 b\n", "Line 1 .* begins with a number.*index,name.*label_id,name"),
        ("Label\nbackground\ncar\n", "'Label', reads like a heading"),
        ("names:\n  0: background\n  1: car\n", "'names:', reads like a heading"),
        ("id name\n0 background\n1 car\n", "'id name', reads like a heading"),
        ('"Class-Name"\n"background"\n', "reads like a heading"),
        ("Labels (2):\nbackground\ncar\n", "reads like a heading"),
        ("categoryname\nbackground\ncar\n", "reads like a heading"),
        ("name|r|g|b\na|1|2|3\nb|3|2|1\n", "names columns, but does not separate them by commas"),
        ("name\n0 a\n1 b\n", "Line 2 .* begins with a number.*index,name"),
        ("car: 1\nbackground: 0\n", "Line 1 .*, 'car: 1', ends with a number.*name,label_id if"),
        ("car=1\nbackground=0\n", "ends with a number"),
        ("__ignore__\nroad: 7\ncar: 8\n", "Line 2 .*, 'road: 7', ends with a number, .*'name'"),
        ("__ignore__\nclasses\nroad\n", "Line 2 .*, 'classes', reads like a heading"),
        ("__ignore__\n", "holds 0 classes"),
        ("a 1 2 3\nb 3 2 1\n", "ends with a number.*name,r,g,b if they are colours"),
        ("// names\nground\ncar\n", "reads like a heading"),
        ("ground\n// the rest\ncar\n", "Line 2 .* starts with '//'; start comments with '# '"),
        ("ground\n%cover\n", "Line 2 .* starts with '%'; .* in double quotes .*: \"%cover\""),
        ('%5" pipe\nground\n', r'Line 1 .* starts with .%.; .*: "%5"" pipe"\.'),
        ("- ground\n- car\n", "Line 1 .* starts with '-'"),
        (
            "background\n#road\ncar\n",
            "Line 2 .*'#road', may be a comment or a class.*double quotes",
        ),
        ('{"a": 0}\n', "is not a class list"),
        ("# only a comment\n", "is empty, or has only comments"),
    ],
)
def test_class_lists_that_could_be_misread_are_refused(tmp_path, text, message):
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_class_list(tmp_path / "c.csv")


@pytest.mark.parametrize(
    "names",
    [
        ("zone 1", "zone 2"),
        ("red", "green", "blue"),
        ("object", "background"),
        ("class 0", "class 1"),
        ("-", "+"),
        ("name", "Boeing 737", "Airbus 320"),  # the way out that the refusal names
        ("name", "label", "class"),
        ("name", "car: 1", "tree: 2"),
    ],
)
def test_names_that_look_like_something_else_are_names(tmp_path, names):
    (tmp_path / "c.txt").write_text("\n".join(names))
    found = [own.name for own in read_class_list(tmp_path / "c.txt").classes]
    assert found == [name for name in names if name != "name"]


@pytest.mark.parametrize(
    ("text", "names"),  # the ways out that the refusals name
    [
        ('ground\n"%cover"\n', ["ground", "%cover"]),
        ('"%5"" pipe"\nground\n', ['%5" pipe', "ground"]),
        ('"#road"\n"- car"\n', ["#road", "- car"]),
        ("__ignore__\nname\nroad: 7\ncar: 8\n", ["road: 7", "car: 8"]),
        ("name\n__ignore__\nroad: 7\ncar: 8\n", ["road: 7", "car: 8"]),
        ("name\n'ground'\ncar\n", ["'ground'", "car"]),  # not all have quotes
    ],
)
def test_any_name_can_be_written(tmp_path, text, names):
    (tmp_path / "c.txt").write_text(text)
    assert [own.name for own in read_class_list(tmp_path / "c.txt").classes] == names


def test_given_colors_are_distinct_and_are_vocs():
    """The devkit's rule, see test_catalog: by hand for some, distinct for all."""
    colors = [default_color(index) for index in range(255)]
    assert len(set(colors)) == 255
    assert colors[:4] == [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]
    assert colors[15] == (192, 128, 128)


def test_classes_survive_dataset_json():
    for own in (GROUND, *with_ids((7,), (7, 8))):
        assert class_lists.from_json(own.to_json()) == own
    assert with_ids((7,), (8,))[0].to_json()["label_id"] == 7  # as earlier versions wrote it
